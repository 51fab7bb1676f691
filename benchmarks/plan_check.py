"""How far a plan is from the run that followed it.

    python benchmarks/plan_check.py recipes/table1.sh          # with the PRESET, RUNS, CELLS, … of the run
    python benchmarks/plan_check.py recipes/table1.sh -- --assume keep=0.4     # flags of `plan` instead of the preset's
    python benchmarks/plan_check.py --lengths ./smollm2        # mean tokens of prompts and references of each task

Plans the recipe's commands, reads what the finished run left (sidecars, metrics and markers of checkpoints, the
seconds in RUNS/seconds.tsv), and sets one beside the other. Exits 1 if all tokens generated, all tokens learnt or all
seconds are off by more than `--within`, if there are none to compare with, or if a command has left nothing. The last
table holds the rates that the constants in reasonrl/planning/devices.py were taken from. Seconds count only if nothing
else ran on the machine. A trainer that was resumed counts with all its runs, but for updates that it made twice. What
version 0.1 left is read too.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from reasonrl.planning import commands
from reasonrl.planning.world import PROBLEMS
from reasonrl.settings import presets

ROOT = Path(__file__).parent.parent


def planned(recipe: str, flags: list[str]) -> list[tuple[str, dict]]:
    """(mark, record of `reasonrl plan`) of each command of a recipe, with its preset's device and assumptions, or with
    these flags instead."""
    printed = lambda plan: (
        subprocess.run([recipe], env=os.environ | {"PLAN": plan}, capture_output=True, check=True).stdout
    )
    lines = printed("lines")
    marks, mark = [], ""
    for line in lines.decode().splitlines():
        if line.startswith("# "):
            mark = line[2:]
        else:
            marks.append(mark if "reasonrl report" not in line else "report")
    if flags:
        words = [sys.executable, "-m", "reasonrl", "plan", "-q", *flags]
        records = subprocess.run(words, input=lines, capture_output=True, check=True).stdout
    else:
        records = printed("1")
    return list(zip(marks, map(json.loads, records.splitlines()), strict=True))


def output_of(command: str) -> str:
    words = command.split()
    return words[words.index("-o") + 1]


def read_json(path: str | Path) -> dict:
    return json.loads(Path(path).read_text())


def measured(record: dict) -> dict[str, float] | None:
    """What a finished command says of itself: tokens generated and learnt, records, rates by kind; None if nothing."""
    path, stage = output_of(record["command"]), record["stage"]
    if os.path.exists(f"{path}.meta.json"):
        meta = read_json(f"{path}.meta.json")
        if not meta["finished"]:
            return None
        counts = meta["counts"]
        sums = {"generated": counts.get("tokens", 0), "records": counts["records"]}
        if stage == "sample":
            temperature = meta["arguments"]["temperature"]
            sums["kind"] = {0: "greedy", 1: "generate"}.get(temperature, "cooler")
            sums["spent"] = sums["generated"] / meta["tokens_per_second"] if meta["tokens_per_second"] else 0
        if spent := meta.get("seconds_of", {}).get("orm"):
            sums |= {"kind": "read", "spent": spent}
        return sums
    if not os.path.exists(f"{path}/reasonrl.json"):
        return None
    lines = [json.loads(line) for line in Path(path, "metrics.jsonl").read_text().splitlines()]
    updates, marker = [line for line in lines if "seconds" in line], read_json(f"{path}/reasonrl.json")
    last = last_updates(updates)
    sums = {"learnt": sum(update["seconds"] * update["tokens_per_second"] for update in last)}
    if stage == "ppo":
        sums |= {"generated": sum(update["tokens"] for update in updates)}
        for phase in PHASES:
            sums[phase] = sum(update["tokens"] / phase_rate(update, phase) for update in updates)
        sums["passed"] = sums["learnt"] / commands.SORTED / epochs_of_ppo(marker)
    else:
        spent = sum(update["seconds"] for update in last)
        sums |= {"kind": "verifier" if stage == "orm" else "learn", "spent": spent}
        sums["generated"] = marker.get("labelling", {}).get("tokens", 0)
    return sums


PHASES = {"rollout": "generated", "evaluate": "passed", "update": "passed"}
"""The phases of PPO, and the tokens that each one's rate is of."""


def phase_rate(update: dict, phase: str) -> float:
    """A phase's tokens a second. Version 0.1 called the evaluation of rollouts their score."""
    name = f"{phase}_tokens_per_second"
    return update[name] if phase != "evaluate" or name in update else update["score_tokens_per_second"]


def last_updates(updates: list[dict]) -> list[dict]:
    """The last update of each run of a trainer: seconds and tokens a second count anew with --resume."""
    return [update for update, after in pairwise([*updates, {"seconds": 0}]) if after["seconds"] < update["seconds"]]


def epochs_of_ppo(marker: dict) -> int:
    """Version 0.1 wrote none down where the preset gave them."""
    return marker["arguments"]["epochs"] or presets.of_stage("ppo")[marker["preset"]]["epochs"]


def padding(task: str, *lengths: Callable[[dict], int]) -> float:
    """Tokens of random batches of 32 training examples, padded to the longest, over tokens of the examples."""
    from reasonrl.tasks import source
    from reasonrl.training.batching import update_batches

    examples = [sum(length(one) for length in lengths) for one in source.task_problems(task, "train")]
    groups = [[examples[row] for row in rows] for rows in update_batches(len(examples), 32, 1, 0)]
    return sum(max(group) * len(group) for group in groups) / sum(map(sum, groups))


def lengths(model: str) -> None:
    """Mean tokens of prompts and of references with their EOS, on the test splits, and the padding of training sets."""
    from statistics import mean

    from reasonrl.models.language_model import load_tokenizer
    from reasonrl.prompts import PromptForm
    from reasonrl.tasks import source

    policy, form = load_tokenizer(model), PromptForm()
    prompt = lambda one: len(policy.encode_prompt(form.render(one["question"])))
    reference = lambda one: len(policy.encode_completion(one["reference"])) + 1
    print("| task | prompt | reference | padding |\n| --- | --- | --- | --- |")
    for task in PROBLEMS:
        problems = list(source.task_problems(task, "test"))
        prompts, references = mean(map(prompt, problems)), mean(map(reference, problems))
        print(f"| {task} | {prompts:.1f} | {references:.1f} | {padding(task, prompt, reference):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--lengths", metavar="MODEL", help="Count tokens with this model's tokenizer, and do no more.")
    parser.add_argument("--runs", default=os.environ.get("RUNS") or f"runs/{os.environ.get('PRESET') or 'tiny'}")
    parser.add_argument("--within", type=float, default=0.25)
    own = sys.argv[1:]
    flags = own[own.index("--") + 1 :] if "--" in own else []
    options = parser.parse_args(own[: own.index("--")] if flags else own)
    if options.lengths:
        return lengths(options.lengths)
    if not options.recipe:
        parser.error("name the recipe that was run")

    took: Counter[str] = Counter()
    for line in Path(options.runs, "seconds.tsv").read_text().splitlines():
        mark, _, seconds = line.partition("\t")
        took[mark] += float(seconds)
    plans, real, missing = Counter(), Counter(), []
    by_mark: dict[str, float] = defaultdict(float)
    by_stage: dict[str, Counter] = defaultdict(Counter)
    rates: dict[str, Counter] = defaultdict(Counter)
    for mark, record in planned(options.recipe, flags):
        if record["stage"] == "report":
            continue
        by_mark[mark] += record["seconds"]
        left = measured(record)
        if left is None:
            missing.append(record["command"])
            continue
        stage = by_stage[record["stage"]]
        for name in ("generated", "learnt"):
            plans[name] += record["tokens"][name]
            real[name] += left.get(name, 0)
            stage[f"plan {name}"] += record["tokens"][name]
            stage[name] += left.get(name, 0)
        stage["plan records"] += record["records"]
        stage["records"] += left.get("records", record["records"])
        if left.get("spent"):
            tokens = record["tokens"]["read"] if left["kind"] == "read" else left.get("learnt") or left["generated"]
            rates[left["kind"]].update(tokens=tokens, seconds=left["spent"])
        for phase, tokens in PHASES.items():
            if phase in left:
                rates[phase].update(tokens=left[tokens], seconds=left[phase])
    by_mark = {mark: seconds for mark, seconds in by_mark.items() if mark in took}  # the others have not ended
    plans["seconds"], real["seconds"] = sum(by_mark.values()), sum(took[mark] for mark in by_mark)

    def row(name: str, plan: float, run: float) -> bool:
        off = plan / run - 1 if run else math.inf if plan else 0.0
        print(f"| {name} | {plan:,.0f} | {run:,.0f} | {off:+.0%} |")
        return abs(off) <= options.within

    head = lambda first: print(f"\n| {first} | planned | measured | off |\n| --- | --- | --- | --- |")
    head("stage")
    for stage, sums in by_stage.items():
        for name in ("generated", "learnt", "records"):
            if sums[name]:
                row(f"{stage}, {'tokens ' if name != 'records' else ''}{name}", sums[f"plan {name}"], sums[name])
    head("seconds of")
    for mark, seconds in by_mark.items():
        row(mark, seconds, took[mark])
    head("in all")
    good = [row(name, plans[name], real[name]) for name in ("generated", "learnt", "seconds")]
    print("\n| rate | tokens | seconds | tokens/s |\n| --- | --- | --- | --- |")
    for kind, sums in rates.items():
        print(f"| {kind} | {sums['tokens']:,.0f} | {sums['seconds']:.1f} | {sums['tokens'] / sums['seconds']:,.0f} |")
    for command in missing:
        print(f"nothing left of: {command}", file=sys.stderr)
    if not by_mark:
        print(f"{options.runs}/seconds.tsv has none of the recipe's parts", file=sys.stderr)
    sys.exit(not all(good) or bool(missing) or not by_mark)


if __name__ == "__main__":
    main()
