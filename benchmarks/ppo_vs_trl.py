"""`ppo` against TRL's PPO trainer: rollouts a second and peak memory, with the same models and the same work.

    python benchmarks/ppo_vs_trl.py                                 makes build/venv-trl the first time
    python benchmarks/ppo_vs_trl.py --trl-python /path/to/python    where trl 1.12.0 is installed

TRL 1.12.0 is the last release with PPO (`trl.experimental.ppo`). Four models of the bundled one's size on either side:
policy, reference, a value model of its own (`--critic separate`) and a reward model (`--reward orm`). Problems of
`mini`, one rollout each, temperature 1, at most 48 tokens, both ending at EOS; the learning rate is so small that the
lengths stay what they are. An update is 256 rollouts, 4 epochs of 4 minibatches, 16 optimiser steps.

Each side runs in a process of its own, in turns. The first update of a process warms up and is not timed; peak memory
is the largest resident set that the system saw of the process. TRL computes in batches of --trl-rows rollouts.
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


def of_trl(settings: dict) -> None:
    """TRL's run, in TRL's environment: prints the time at the end of every update, and the tokens of the rollouts."""
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
            ends.append(time.perf_counter())

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


def prompts(count: int) -> list[list[int]]:
    """The ids that `ppo --task mini` reads."""
    from itertools import islice

    from reasonrl.models.policy import load_tokenizer
    from reasonrl.tasks import mini
    from reasonrl.tasks.prompts import PromptForm

    policy, form = load_tokenizer("tiny"), PromptForm()
    return [policy.encode_prompt(form.render(one["question"])) for one in islice(mini.problems("train"), count)]


def measured(command: list[str], directory: str) -> tuple[str, float]:
    """Runs a command. Returns its stdout and its peak resident set in MiB."""
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    with open(f"{directory}/said", "w+") as said, open(f"{directory}/complaints", "w+") as complaints:
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=said, stderr=complaints)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0), complaints.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{complaints.read()[-4000:]}")
        return said.read(), usage.ru_maxrss / 1024


def reasonrl(options: argparse.Namespace, directory: str) -> dict:
    command = (
        f"{sys.executable} -m reasonrl ppo -q --task mini --limit {options.rollouts * options.updates} --k 1 --force "
        f"--samples {options.rollouts * options.updates} --batch-size {options.rollouts} --epochs {options.epochs} "
        f"--minibatches {options.minibatches} --max-tokens {options.max_tokens} --lr {RATE} --critic {options.critic} "
        f"--reward {options.reward} --device cpu -o ours"
    )
    _, peak = measured(command.split(), directory)
    log = [json.loads(line) for line in Path(directory, "ours", "metrics.jsonl").read_text().splitlines()]
    tokens = statistics.mean(line["completion_length"] for line in log)
    return {"seconds": [line["seconds"] for line in log], "tokens": tokens, "peak": peak}


def trl(options: argparse.Namespace, directory: str) -> dict:
    from reasonrl.models.policy import BUNDLED

    settings = vars(options) | {"model": BUNDLED["tiny"], "output": f"{directory}/trl"}
    settings["prompts"] = prompts(options.rollouts * options.updates)
    Path(directory, "settings.json").write_text(json.dumps(settings, default=str))
    said, peak = measured([options.trl_python, str(Path(__file__).resolve()), "--as-trl", "settings.json"], directory)
    return json.loads(said.splitlines()[-1]) | {"peak": peak}


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
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--critic", default="separate", choices=["separate", "shared"])
    parser.add_argument("--reward", default="orm", choices=["orm", "exact"])
    parser.add_argument("--trl-rows", type=int, default=64, help="TRL's local_rollout_forward_batch_size")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--require", type=float, default=2.0, help="exit 1 below this ratio, or with more memory")
    parser.add_argument("--as-trl", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_trl:
        return of_trl(json.loads(Path(options.as_trl).read_text()))

    options.trl_python = options.trl_python or environment()
    rates: dict[str, list[float]] = {"TRL": [], "reasonrl": []}
    peaks: dict[str, list[float]] = {"TRL": [], "reasonrl": []}
    tokens: dict[str, float] = {}
    for _ in range(options.turns):
        for name, run in (("TRL", trl), ("reasonrl", reasonrl)):
            with tempfile.TemporaryDirectory() as directory:
                found = run(options, directory)
            first, *_, last = found["seconds"]
            rates[name].append(options.rollouts * (options.updates - 1) / (last - first))
            peaks[name].append(found["peak"])
            tokens[name] = found["tokens"]
    print(
        f"{options.rollouts} rollouts an update, at most {options.max_tokens} tokens, {options.epochs} epochs, "
        f"{options.minibatches} minibatches, critic {options.critic}, reward {options.reward}, "
        f"{os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads, {options.turns} turns\n"
    )
    print("| trainer | rollouts/s (median) | lowest | highest | tokens a rollout | peak memory (median), MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, of_name in rates.items():
        print(
            f"| {name} | {statistics.median(of_name):.1f} | {min(of_name):.1f} | {max(of_name):.1f} | "
            f"{tokens[name]:.1f} | {statistics.median(peaks[name]):.0f} |"
        )
    ratio = statistics.median(rates["reasonrl"]) / statistics.median(rates["TRL"])
    memory = statistics.median(peaks["reasonrl"]) / statistics.median(peaks["TRL"])
    print(f"\nratio {ratio:.2f}, required {options.require}; memory {memory:.2f}, at most 1")
    raise SystemExit(ratio < options.require or memory > 1)


if __name__ == "__main__":
    main()
