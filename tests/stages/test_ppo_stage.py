"""`reasonrl ppo` as its users run it: interrupted, run away, on several processes, with adapters, with wrong input."""

import json
import os
import sys

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

SMALL = "--task mini --limit 12 --batch-size 16 --k 4 --minibatches 2 --max-tokens 24 --device cpu -q"
TIMED = {
    "seconds", "tokens_per_second", "rollout_tokens_per_second", "evaluate_tokens_per_second",
    "update_tokens_per_second",
}  # fmt: skip


def metrics(checkpoint):
    lines = [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


def marker(checkpoint):
    return json.loads((checkpoint / "reasonrl.json").read_text())


LOGGED = {
    "update", "samples", "reward", "reward_exact", "accuracy", "kl_k1", "kl_k3", "clip_fraction", "approx_kl",
    "entropy", "explained_variance", "value_loss", "value_clip_fraction", "policy_loss", "completion_length",
    "truncated", "unparseable", "tokens", "sampler_logprob_gap", "grad_norm", "learning_rate",
}  # fmt: skip


def test_a_run_prints_its_checkpoint_logs_every_metric_and_the_page_explains_them(sh, tmp_path):
    done = sh(
        f"reasonrl ppo {SMALL} --samples 48 --keep-every 2 -o out && reasonrl sample --model out --limit 2 | wc -l"
    )
    assert done.code == 0, done.err
    assert done.out.decode().split() == ["out", "2"]
    log = metrics(tmp_path / "out")
    assert [line["samples"] for line in log] == [16, 32, 48]
    explained = (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8")
    for line in log:
        assert set(line) == LOGGED
    for name in LOGGED | TIMED:
        assert f"`{name}`" in explained, f"docs/ppo.md does not explain {name}"
    assert log[0]["kl_k1"] == log[0]["kl_k3"] == 0  # before anything is learned
    assert abs(log[0]["sampler_logprob_gap"]) < 1e-4
    about = marker(tmp_path / "out")
    assert (about["updates"], about["samples"]) == (3, 48)
    assert about["rewards"] == [{"name": "exact", "spec": "exact", "weight": 1}]
    assert not list(tmp_path.glob("*.partial")) and not (tmp_path / "out" / "snapshot").exists()
    kept = marker(tmp_path / "out-2")
    assert (kept["updates"], kept["samples"]) == (2, 32)


def test_the_truncated_fraction_is_logged(sh, tmp_path):
    assert sh(f"reasonrl ppo {SMALL} --samples 16 --max-tokens 2 --lr 0 -o out").code == 0
    (log,) = metrics(tmp_path / "out")
    assert (log["truncated"], log["reward"], log["accuracy"], log["completion_length"]) == (1, 0, 0, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "torn"), [("", True), ("--critic separate --lora-rank 4 --reward dense", False)]
)  # fmt: skip
def test_resumed_equals_uninterrupted(sh, tmp_path, killed_at, flags, torn):
    """torn: the kill came while the new state was taking the place of the old one."""
    line = f"reasonrl ppo {SMALL} --samples 128 --save-every 3 --keep-every 2 {flags} -o"
    assert sh(f"{line} whole").code == 0
    killed_at(f"{line} killed", "killed.partial/metrics.jsonl", 4)
    assert not (tmp_path / "killed").exists() and (tmp_path / "killed.partial" / "state").exists()
    if torn:
        (tmp_path / "killed.partial" / "state").rename(tmp_path / "killed.partial" / "state.new")
        (tmp_path / "killed.partial" / "state").mkdir()
        (tmp_path / "killed.partial" / "state" / "optimizer.bin").write_bytes(b"half")
    refused = sh(f"{line} killed")
    assert refused.code == 2 and "--resume continues" in refused.err
    assert sh(f"{line} killed --resume").out == b"killed\n"
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    (name,) = {"adapter_model.safetensors", "model.safetensors"} & set(os.listdir(tmp_path / "whole"))
    for kept in ("", "-2", "-4", "-6"):
        one, other = load_file(tmp_path / f"killed{kept}" / name), load_file(tmp_path / f"whole{kept}" / name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert not list(tmp_path.glob("*.partial"))


def test_checkpoints_on_the_way_overwrite_nothing_that_is_not_theirs(sh, tmp_path):
    (tmp_path / "out-2").mkdir()
    (tmp_path / "out-2" / "notes").write_text("notes")
    for flags in ("", "--resume"):
        done = sh(f"reasonrl ppo {SMALL} --samples 48 --keep-every 2 {flags} -o out")
        assert done.code == 2 and "out-2 exists" in done.err
    assert (tmp_path / "out-2" / "notes").read_text() == "notes" and not (tmp_path / "out.partial").exists()


def test_rewards_are_summed_with_their_weights(sh, tmp_path):
    flags = "--reward exact --reward dense --reward orm --weight dense=0.5 --weight orm=-2 --kl-limit 0"
    assert sh(f"reasonrl ppo {SMALL} --samples 32 --max-tokens 128 --epochs 1 {flags} -o out").code == 0
    for line in metrics(tmp_path / "out"):
        assert line["truncated"] == 0  # whose rewards are logged, and pay nothing
        parts = [line[f"reward_{name}"] for name in ("exact", "dense", "orm")]
        assert all(parts) and line["reward"] == pytest.approx(parts[0] + 0.5 * parts[1] - 2 * parts[2], abs=1e-5)
    weights = {one["name"]: one["weight"] for one in marker(tmp_path / "out")["rewards"]}
    assert weights == {"exact": 1, "dense": 0.5, "orm": -2}


def test_the_last_update_is_looked_at_too(sh, tmp_path):
    one = "--samples 32 --batch-size 32 --max-tokens 96 --critic-warmup 0 --warmup 0 --lr 1 --final-lr 1"
    done = sh(f"reasonrl ppo {SMALL} {one} -o out")
    assert done.code == 1 and "KL has run away" in done.err and "from the one before it learned at update 1" in done.err
    assert not (tmp_path / "out").exists()


def test_a_learning_rate_far_too_high_stops_and_leaves_the_last_good_checkpoint(sh, tmp_path):
    done = sh(f"reasonrl ppo {SMALL} --samples 320 --save-every 1 --lr 0.03 --warmup 1 --critic-warmup 2 -o out")
    assert done.code == 1
    assert "KL has run away" in done.err and "smaller --lr" in done.err and "out.last-good" in done.err
    assert not (tmp_path / "out").exists()
    good = marker(tmp_path / "out.last-good")
    assert good["updates"] >= 1
    assert sh("reasonrl sample --model out.last-good --limit 2 | wc -l").out.split() == [b"2"]
    log = metrics(tmp_path / "out.partial")
    assert all(line["kl_k1"] < 2 for line in log) and good["updates"] in (len(log), len(log) - 1)
    again = sh(
        f"reasonrl ppo {SMALL} --samples 320 --save-every 1 --lr 0.03 --warmup 1 --critic-warmup 2 -o out --resume"
    )
    assert again.code == 1 and "out.last-good" in again.err and marker(tmp_path / "out.last-good") == good


def test_what_is_not_finite_stops_too_and_says_where_the_good_policy_is(sh, tmp_path):
    (tmp_path / "own.py").write_text("def own(records):\n    return [1e38] * len(records)\n")
    done = sh(f"reasonrl ppo {SMALL} --samples 32 --reward own.py:own --value-coefficient 1e30 -o out")
    assert done.code == 1 and "tiny is the last good one" in done.err
    assert "the loss is" in done.err or "the gradient's norm is" in done.err


@pytest.mark.slow
def test_two_processes_give_the_single_process_numbers(sh, tmp_path):
    line = f"{SMALL} --samples 32 --minibatches 1 --epochs 1 --critic-warmup 0"
    assert sh(f"reasonrl ppo {line} -o one").code == 0
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    done = sh(f"{sys.executable} -m accelerate.commands.launch {options} -m reasonrl ppo {line} -o two", timeout=180)
    assert done.code == 0, done.err
    assert done.out == b"two\n" and marker(tmp_path / "two")["processes"] == 2
    first = zip(metrics(tmp_path / "one")[:1], metrics(tmp_path / "two")[:1], strict=True)
    for one, two in first:
        for name in LOGGED - {"explained_variance"}:  # that one is of the first process
            assert one[name] == pytest.approx(two[name], abs=2e-4), name
    one, two = load_file(tmp_path / "one" / "model.safetensors"), load_file(tmp_path / "two" / "model.safetensors")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-3


@pytest.mark.parametrize("flags", ["--advantage grpo", "--advantage rloo --lora-rank 4 --gradient-checkpointing"])
def test_group_advantages_train_without_a_critic(sh, tmp_path, flags):
    assert sh(f"reasonrl ppo {SMALL} --samples 32 --epochs 1 {flags} -o out").code == 0
    for line in metrics(tmp_path / "out"):
        assert set(line) == LOGGED - {"value_loss", "value_clip_fraction", "explained_variance"}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("advantage", ["gae", "grpo", "rloo"])
def test_it_learns_what_is_rewarded(sh, tmp_path, advantage):
    """Short solutions, which any policy can find within seconds."""
    own = "def short(records):\n    return [len(one['completion']) < 80 for one in records]\n"
    (tmp_path / "own.py").write_text(own)
    line = "--task mini --samples 768 --batch-size 128 --max-tokens 64 --lr 1e-3 --kl 0 --critic-warmup 0 -q"
    done = sh(f"reasonrl ppo {line} --reward own.py:short --advantage {advantage} -o out", timeout=180)
    assert done.code == 0, done.err
    log = metrics(tmp_path / "out")
    assert log[-1]["reward"] > log[0]["reward"] + 0.2
    assert log[-1]["completion_length"] < 0.9 * log[0]["completion_length"]


def test_trackers_get_the_metrics_on_request(sh, tmp_path):
    assert sh(f"reasonrl ppo {SMALL} --samples 32 --log-with tensorboard -o out").code == 0
    logged = b"".join(events.read_bytes() for events in (tmp_path / "out").rglob("events.out.tfevents*"))
    assert all(name in logged for name in (b"kl_k3", b"explained_variance", b"rollout_tokens_per_second"))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--task mini", "name the checkpoint's directory"),
        ("--task mini --batch-size 10 --k 4 -o out", "--batch-size 10 is no multiple of --k 4"),
        ("--task mini --k 1 --advantage rloo -o out", "give --k 2 or more"),
        ("--task mini --temperature 0 -o out", "nothing to learn from"),
        ("--task mini --reward nonsense -o out", "want exact, dense, orm"),
        ("--task mini --log-with nonsense -o out", "--log-with nonsense"),
        ("--task mini --reward orm --orm tiny -o out", "no outcome reward model"),
        ("--task mini --model nowhere/at/all -o out", "no such model"),
        ("unanswered.jsonl -o out", "answer"),
        ("--task mini --path here --limit 0 -o out", "limit"),
    ],
)
def test_wrong_input_is_reported_in_one_line(sh, tmp_path, flags, complaint):
    (tmp_path / "unanswered.jsonl").write_text('{"id": "a", "question": "What is 1 + 1?"}\n')
    done = sh(f"reasonrl ppo {flags}")
    assert done.code in (1, 2)
    assert complaint in done.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.slow
def test_lora_on_smollm2_makes_a_few_updates_on_gsm8k(sh, smollm2, data, tmp_path):
    """First sentences only, to be quick; too few for a right answer, so that the reward is of the test's own making."""
    own = "def digits(records):\n    return [sum(map(str.isdigit, one['completion'])) for one in records]\n"
    (tmp_path / "own.py").write_text(own)
    line = f"--task gsm8k --path {data} --model {smollm2} --lora-rank 8 --lr 1e-3 --samples 24 --batch-size 8 --limit 6"
    done = sh(
        f"reasonrl ppo {line} --minibatches 2 --epochs 1 --critic-warmup 1 --max-tokens 32 --stop . --reward exact "
        "--reward own.py:digits -o out",
        timeout=600, OMP_NUM_THREADS="2",
    )  # fmt: skip
    assert done.code == 0, done.err
    log = metrics(tmp_path / "out")
    assert len(log) == 3
    assert log[0]["kl_k3"] == 0 == log[1]["kl_k3"] and 0 < log[2]["kl_k3"] < 0.5
    assert all(line["sampler_logprob_gap"] < 1e-3 and line["grad_norm"] > 0 and line["reward"] > 0 for line in log)
    assert (tmp_path / "out" / "adapter_config.json").exists() and not (tmp_path / "out" / "model.safetensors").exists()
