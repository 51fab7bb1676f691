"""`ppo` against TRL's PPO trainer: rollouts a second and peak memory, with the same models and the same work.

    python benchmarks/ppo_vs_trl.py                                 makes build/venv-trl the first time
    python benchmarks/ppo_vs_trl.py --trl-python /path/to/python    where trl 1.12.0 is installed

TRL 1.12.0 is the last release with PPO (`trl.experimental.ppo`). It wants four models: policy, reference, a value model
of its own and a reward model, here all of the bundled model's size. reasonrl runs twice: with its defaults (a head on
the policy's trunk, the exact reward), and with the same four models (`--critic separate --reward orm`). Problems of
`mini`, one rollout each, temperature 1, at most 48 tokens, all ending at EOS; the learning rate is so small that the
lengths stay what they are. An update is 256 rollouts, 4 epochs of 4 minibatches, 16 optimiser steps.

Each runs in a process of its own, in turns. The first update of a process warms up and is not timed; peak memory
is the largest resident set that the system saw of the process. TRL computes in batches of --trl-rows rollouts. On a
machine that does other things too, OMP_NUM_THREADS=1 and --clock cpu compare CPU seconds instead.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRL = ["trl==1.12.0", "torch==2.13.0", "transformers>=5.16.1,<5.20", "accelerate", "peft"]
RATE = 1e-6
WAYS = {"trl": "", "reasonrl": "", "reasonrl, four models": "--critic separate --reward orm"}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def run_trl(settings: dict) -> None:
    """TRL's run, in TRL's environment: prints the clock at the end of every update, and the tokens of a rollout."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    model = settings["model"]
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    score = lambda: AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
    policy = lambda: AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ends, tokens = [], []

    class Timed(TrainerCallback):
        def on_step_end(self, *given, **named):
            ends.append(CLOCKS[settings["clock"]]())

    truncate = ppo_trainer.truncate_response

    def counted(stop, pad, responses):
        whole = truncate(stop, pad, responses)
        tokens.append(int((whole != pad).sum()))
        return whole

    ppo_trainer.truncate_response = counted
    options = PPOConfig(
        output_dir=settings["output"], report_to="none", save_strategy="no", eval_strategy="no", disable_tqdm=True,
        logging_strategy="no", num_sample_generations=0, use_cpu=True, bf16=False, gradient_checkpointing=False,
        learning_rate=RATE, temperature=1.0, stop_token="eos", response_length=settings["max_tokens"],
        total_episodes=settings["rollouts"] * settings["updates"], num_ppo_epochs=settings["epochs"],
        num_mini_batches=settings["minibatches"],
        # Its optimiser steps once every `gradient_accumulation_steps` microbatches: with more than one, once an epoch.
        per_device_train_batch_size=settings["rollouts"], gradient_accumulation_steps=1,
        local_rollout_forward_batch_size=settings["trl_rows"], dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = PPOTrainer(
        args=options, processing_class=tokenizer, model=policy(), ref_model=policy(), reward_model=score(),
        value_model=score(), train_dataset=Dataset.from_list([{"input_ids": ids} for ids in settings["prompts"]]),
        eval_dataset=Dataset.from_list([{"input_ids": ids} for ids in settings["prompts"][:1]]), callbacks=[Timed()],
    )  # fmt: skip
    trainer.train()
    print(json.dumps({"seconds": ends, "tokens": sum(tokens) / len(ends) / settings["rollouts"]}))


def run_reasonrl(settings: dict) -> None:
    """The same of reasonrl: its command line, run in this process."""
    from reasonrl import cli
    from reasonrl.training.loop import Loop

    ends, tokens = [], []
    log = Loop.log

    def timed(loop, metrics):
        log(loop, metrics)
        ends.append(CLOCKS[settings["clock"]]())
        tokens.append(metrics["completion_length"])

    Loop.log = timed
    rollouts = settings["rollouts"] * settings["updates"]
    flags = (
        f"ppo -q --task mini --limit {rollouts} --k 1 --samples {rollouts} --batch-size {settings['rollouts']} "
        f"--epochs {settings['epochs']} --minibatches {settings['minibatches']} --max-tokens {settings['max_tokens']} "
        f"--lr {RATE} --device cpu -o {settings['output']} {WAYS[settings['way']]}"
    )
    if cli.run(flags.split()):
        raise SystemExit(1)
    print(json.dumps({"seconds": ends, "tokens": statistics.mean(tokens)}))


def prompts(count: int) -> list[list[int]]:
    """The ids that `ppo --task mini` reads."""
    from itertools import islice

    from reasonrl.models.language_model import load_tokenizer
    from reasonrl.prompts import PromptForm
    from reasonrl.tasks import mini

    tokenizer, form = load_tokenizer("tiny"), PromptForm()
    return [tokenizer.encode_prompt(form.render(one["question"])) for one in islice(mini.problems("train"), count)]


def measured(command: list[str], directory: str) -> tuple[str, float]:
    """Runs a command. Returns its stdout and its peak resident set in MiB."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with open(f"{directory}/stdout", "w+") as stdout, open(f"{directory}/stderr", "w+") as stderr:
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0), stderr.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{stderr.read()[-4000:]}")
        return stdout.read(), usage.ru_maxrss / 1024


def run(name: str, options: argparse.Namespace) -> dict:
    """One run of one of WAYS: the clock at the end of every update, tokens a rollout, peak memory."""
    from reasonrl.models.language_model import BUNDLED

    with tempfile.TemporaryDirectory() as directory:
        settings = vars(options) | {"way": name, "model": BUNDLED["tiny"], "output": f"{directory}/trained"}
        settings["prompts"] = prompts(options.rollouts * options.updates)
        Path(directory, "settings.json").write_text(json.dumps(settings))
        python = options.trl_python if name == "trl" else sys.executable
        command = [*options.under.split(), python, str(Path(__file__).resolve()), "--child", "settings.json"]
        stdout, peak = measured(command, directory)
    result = json.loads(stdout.splitlines()[-1]) | {"peak": peak}
    first, *_, last = result["seconds"]
    result["rate"] = options.rollouts * (options.updates - 1) / (last - first)
    print(f"{name}: {result['rate']:.1f} rollouts/s, {peak:.0f} MiB", file=sys.stderr)
    return result


def environment() -> str:
    """The python of build/venv-trl, which is made where it is missing."""
    directory = ROOT / "build" / "venv-trl"
    if not (directory / "done").exists():
        print(f"making {directory}: {' '.join(TRL)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
        subprocess.run([directory / "bin" / "pip", "install", "--quiet", *TRL], check=True)
        (directory / "done").touch()
    return str(directory / "bin" / "python")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", help="an interpreter that has TRL (default: build/venv-trl's)")
    parser.add_argument("--rollouts", type=int, default=256, help="an update")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--minibatches", type=int, default=4)
    parser.add_argument("--updates", type=int, default=3, help="of which the first is not timed")
    parser.add_argument("--trl-rows", type=int, default=64, help="TRL's local_rollout_forward_batch_size")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--require", type=float, default=2.0, help="exit 1 below this ratio, or with more memory")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--under", default="", metavar="CMD", help="what each process is run by, such as taskset -c 0")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        settings = json.loads(Path(options.child).read_text())
        return run_trl(settings) if settings["way"] == "trl" else run_reasonrl(settings)

    options.trl_python = options.trl_python or environment()
    runs: dict[str, list[dict]] = {name: [] for name in WAYS}
    for _ in range(options.turns):
        for name, by_name in runs.items():
            by_name.append(run(name, options))
    print(
        f"{options.rollouts} rollouts an update, at most {options.max_tokens} tokens, {options.epochs} epochs, "
        f"{options.minibatches} minibatches, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads, "
        f"{options.turns} turns\n"
    )
    unit = "s" if options.clock == "wall" else "CPU second"
    print(f"| trainer | rollouts/{unit} (median) | lowest | highest | tokens a rollout | peak memory (median), MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    middle = {}
    for name, by_name in runs.items():
        rates = [one["rate"] for one in by_name]
        tokens = statistics.mean(one["tokens"] for one in by_name)
        middle[name] = statistics.median(rates), statistics.median(one["peak"] for one in by_name)
        speed, peak = middle[name]
        print(f"| {name} | {speed:.1f} | {min(rates):.1f} | {max(rates):.1f} | {tokens:.1f} | {peak:.0f} |")
    print()
    missed = False
    for name in list(WAYS)[1:]:
        ratio, memory = (own / peer for own, peer in zip(middle[name], middle["trl"], strict=True))
        print(f"{name}: {ratio:.2f} times as fast, memory {memory:.2f}")
        missed |= memory > 1 or (name == "reasonrl" and ratio < options.require)
    print(f"required: reasonrl {options.require} times, memory of both at most 1")
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
