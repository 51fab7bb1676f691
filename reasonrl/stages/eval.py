"""`reasonrl eval`: maj@k, pass@k and rerank@k of scored samples."""

import contextlib
import math
from typing import Annotated

import typer

from reasonrl import console, jsonl, provenance
from reasonrl.errors import ReasonRLError, RecordError, UsageError
from reasonrl.records import Record, need_text, rewards_of
from reasonrl.stages import flags
from reasonrl.tasks import equations

Label = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="A label for the metrics record; may be repeated.", show_default=False
    ),
]

DRAWN = ("model", "temperature", "top_p", "condition", "prompt_hash")  # how a sample was; the hash: exemplars and form
SAMPLE = ("id", "k", "seed", *DRAWN)  # what tells one from others

OWN_FIELDS = {
    "metrics",
    "questions",
    "samples",
    "greedy",
    "unparseable",
    "truncated",
    "unique_solutions",
    "unique_correct",
}


def eval_(
    scored: flags.Records = None,
    set_: Label = None,
    seed: flags.Seed = 0,
    output: flags.OutputFile = "-",
    force: flags.Force = False,
    resume: flags.Resume = False,
    on_error: flags.OnErrorFlag = flags.OnError.fail,
    rejects: flags.Rejects = None,
) -> None:
    """Evaluate scored samples; print one metrics record.

    A table goes to stderr. maj@1 comes from greedy records (temperature 0), everything @k from the others; give both
    files at once. pass@k is the unbiased estimator. Each value has a 95% bootstrap interval over questions.
    docs/eval.md has the formulas.

    \b
    Examples:
      reasonrl eval greedy.jsonl sampled.jsonl --set algorithm=ei --set round=2 -o ei2.json
      reasonrl sample --k 8 | reasonrl score | reasonrl eval | jq '.metrics[] | select(.name == "pass")'
    """
    from reasonrl import stats  # brings numpy, which `--help` need not wait for

    labels = _labels(set_ or [])
    greedy: dict[str, tuple[stats.Judged, list]] = {}
    sampled: dict[str, list[stats.Judged]] = {}
    chains: dict[str, dict[str, bool]] = {}
    unparseable = truncated = total = 0
    seen: set[int] = set()
    drawn: dict[str, dict[str, None]] = {name: {} for name in DRAWN}

    def visit(record: Record, _: bytes) -> None:
        nonlocal unparseable, truncated, total
        need_text(record, "id", "completion")
        if type(record.get("temperature")) not in (int, float):
            raise RecordError('no number in field "temperature" (0 says that a sample is greedy)')
        if type(record.get("correct")) is not bool:
            raise RecordError('no verdict in field "correct" (pass the samples through `reasonrl score` first)')
        if "extracted" not in record or type(record["extracted"]) not in (str, type(None)):
            raise RecordError('field "extracted" is neither a string nor null')
        if "k" in record and "seed" in record:  # records made by hand may lack them, and may then be alike
            # 64 bits of a keyed hash stand for the sample, as in `filter`.
            key = hash(jsonl.dumps([record.get(name) for name in SAMPLE]))
            if key in seen:
                raise RecordError(
                    f"sample k = {record['k']} of {record['id']!r} came in before (is a file given twice, or a shard?)"
                )
            seen.add(key)
        judged = stats.Judged(record.get("extracted"), record["correct"], rewards_of(record).get("orm"))
        total += 1
        unparseable += judged.extracted is None
        truncated += record.get("finish") == "length"
        if record["temperature"] == 0:
            how = [record.get(name) for name in DRAWN]
            if greedy.setdefault(record["id"], (judged, how))[1] != how:
                raise RecordError(
                    f"a second greedy answer to {record['id']!r}, of another model, prompt or condition; "
                    "give each a run of `eval` of its own"
                )
        else:
            for name in DRAWN:
                drawn[name][str(record.get(name))] = None
            sampled.setdefault(record["id"], []).append(judged)
            solutions = chains.setdefault(record["id"], {})
            solution = equations.chain(record["completion"])
            solutions[solution] = solutions.get(solution, False) or judged.correct

    readers = jsonl.inputs(scored or [])
    with provenance.open_output(output, force=force, resume=resume) as out:
        out.reads(readers)
        jsonl.each(readers, visit, jsonl.BadLines(on_error, rejects, used=[*(scored or []), output]))
        if not total:
            raise ReasonRLError("no scored samples came in")
        metrics = stats.greedy_metrics([judged for judged, _ in greedy.values()], seed) + stats.sampled_metrics(
            list(sampled.values()), seed
        )
        counts = sorted({len(group) for group in sampled.values()})
        if len(counts) > 1:
            console.warn(f"questions have {counts[0]} to {counts[-1]} samples each; metrics go up to k = {counts[0]}")
        for name, values in drawn.items():
            if len(values) > 1:
                console.warn(f"sampled records differ in {name} and count as one: {', '.join(sorted(values))}")
        found = len(chains) or 1
        out.write(
            labels
            | {
                "metrics": metrics,
                "questions": len({*greedy, *sampled}),
                "samples": sum(map(len, sampled.values())),
                "greedy": len(greedy),
                "unparseable": unparseable / total,
                "truncated": truncated / total,
                "unique_solutions": sum(map(len, chains.values())) / found if chains else None,
                "unique_correct": sum(sum(c.values()) for c in chains.values()) / found if chains else None,
            }
        )
    title = " ".join(f"{name}={value}" for name, value in labels.items())
    rows = [
        (f"{m['name']}@{m['k']}", f"{m['value']:.3f}", f"[{m['low']:.3f}, {m['high']:.3f}]", str(m["n"]))
        for m in metrics
    ]
    console.table(title, ("metric", "value", "95% interval", "questions"), rows)


def _labels(pairs: list[str]) -> dict[str, int | float | str]:
    """`["round=2", "algorithm=ei"]` → {"round": 2, "algorithm": "ei"}: numbers become numbers."""
    labels: dict[str, int | float | str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise UsageError(f"--set {pair}: want NAME=VALUE")
        if name in OWN_FIELDS:
            raise UsageError(f"--set {pair}: the record has a field {name!r} of its own")
        labels[name] = text
        for kind in (float, int):
            with contextlib.suppress(ValueError):
                if math.isfinite(number := kind(text)):  # JSON has no nan, no inf
                    labels[name] = number
    return labels
