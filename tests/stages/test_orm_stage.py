"""`reasonrl orm` and `score --reward orm`, as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import command
from safetensors.torch import load_file

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def reasonrl(*words, check=True, **more):
    done = subprocess.run(command(*words), capture_output=True, text=True, env=ENVIRONMENT, **more)
    assert not check or done.returncode == 0, done.stderr
    return done


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "samples.jsonl"
    reasonrl("sample", "--task", "mini", "--limit", 60, "--k", 8, "-o", path)
    return path


@pytest.fixture(scope="module")
def scored(samples):
    path = samples.with_name("scored.jsonl")
    reasonrl("score", samples, "-o", path)
    return path


@pytest.fixture(scope="module")
def reward_model(scored):
    path = scored.with_name("orm")
    done = reasonrl("orm", scored, "--epochs", 1, "--held-out", 0.3, "-o", path)
    assert done.stdout == f"{path}\n"
    return path


def test_the_checkpoint_says_what_it_is_worth(reward_model, scored):
    held = json.loads((reward_model / "held_out.json").read_text())
    about = json.loads((reward_model / "reasonrl.json").read_text())
    assert 5 < held["questions"] < 60
    assert held["solutions"] + about["examples"] == len(lines(scored))
    assert sum(part["count"] for part in held["bins"]) == held["solutions"]
    assert held["by_step"][0]["n"] == held["solutions"] and 0 <= held["ece"] <= 1
    assert about["held_out"]["auc"] == held["auc"] and about["prompt"]["name"] == "plain"
    scored_steps = lines(reward_model / "held_out.jsonl")
    assert len(scored_steps) == held["solutions"]
    assert np.mean([(one["step_values"][-1] >= 0.5) == one["correct"] for one in scored_steps]) == held["accuracy"]
    assert sum(len(one["step_values"]) for one in scored_steps) == sum(row["n"] for row in held["by_step"])
    assert (reward_model / "reliability.png").stat().st_size > 1000
    assert len((reward_model / "metrics.jsonl").read_text().splitlines()) == about["updates"]


def test_scores_are_in_order_one_a_step_and_the_same_for_any_budget(reward_model, samples, tmp_path):
    for budget in (300, 20_000):
        line = ("score", samples, "--reward", "orm", "--orm", reward_model, "--batch-tokens", budget)
        reasonrl(*line, "-o", tmp_path / f"{budget}")
    few, many, before = lines(tmp_path / "300"), lines(tmp_path / "20000"), lines(samples)
    assert [(r["id"], r["k"]) for r in few] == [(r["id"], r["k"]) for r in before]
    for one, other in zip(few, many, strict=True):
        assert one["rewards"]["orm"] == pytest.approx(other["rewards"]["orm"], abs=1e-4)
        assert len(one["step_values"]["orm"]) == len([x for x in one["completion"].split("\n") if x.strip()])
        assert one["step_values"]["orm"][-1] == one["rewards"]["orm"] == one["reward"]
        assert 0 < one["reward"] < 1


def test_rewards_add_up_and_earlier_ones_stay(reward_model, scored, tmp_path):
    flags = ("--reward", "orm", "--reward", "dense", "--weight", "orm=0.5", "--orm", reward_model)
    reasonrl("score", scored, *flags, "-o", tmp_path / "out")
    for record in lines(tmp_path / "out"):
        rewards = record["rewards"]
        assert set(rewards) == {"exact", "orm", "dense"} and rewards["exact"] == record["correct"]
        assert record["reward"] == pytest.approx(0.5 * rewards["orm"] + rewards["dense"])
        assert sum(record["step_rewards"]["dense"]) == pytest.approx(rewards["dense"])


def test_it_reads_a_pipe_and_eval_reranks(reward_model, samples):
    line = f"reasonrl score {samples} --reward orm -q | reasonrl eval -q"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; cat {samples} | {line.replace(str(samples), '')}"],
        capture_output=True, text=True, env=ENVIRONMENT | {"REASONRL_ORM": str(reward_model)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rerank" in {metric["name"] for metric in json.loads(done.stdout)["metrics"]}


def test_the_line_of_the_design_runs_as_it_stands():
    line = "reasonrl sample --k 96 | reasonrl score --reward orm"  # with the bundled models, on the first 16 problems
    without = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("REASONRL_")}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, env=without,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = [json.loads(one) for one in done.stdout.splitlines()]
    assert [(one["id"], one["k"]) for one in records] == [(f"mini/train/{i}", k) for i in range(16) for k in range(96)]
    right, wrong = ([one["rewards"]["orm"] for one in records if one["correct"] is which] for which in (True, False))
    assert np.mean(right) > np.mean(wrong) + 0.2


def test_samples_leave_when_nothing_more_comes(reward_model, samples):
    line = command("score", "--reward", "orm", "--orm", reward_model)
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        for record in samples.read_bytes().splitlines()[:2]:
            process.stdin.write(record + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["rewards"]["orm"] > 0  # while stdin is open
        process.stdin.close()
        assert process.stdout.read() == b""


def test_an_interrupted_scoring_is_resumed(reward_model, samples, tmp_path):
    line = ("score", samples, "--reward", "orm", "--orm", reward_model, "--batch-tokens", 1000)
    reasonrl(*line, "-o", tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    half = tmp_path / "half"
    reasonrl(*line, "-o", half)
    os.rename(half, f"{half}.partial")
    cut = whole[: len(whole) // 2]  # in the middle of a record
    (tmp_path / "half.partial").write_bytes(cut)
    reasonrl(*line, "-o", half, "--resume")
    assert [r["id"] for r in lines(half)] == [r["id"] for r in lines(tmp_path / "whole")]
    for one, other in zip(lines(half), lines(tmp_path / "whole"), strict=True):
        assert one["reward"] == pytest.approx(other["reward"], abs=1e-4)
    (tmp_path / "half.partial").write_bytes(cut.replace(b'"k":1', b'"k":9'))
    half.unlink()
    changed = reasonrl(*line, "-o", half, "--resume", check=False)
    assert changed.returncode == 2 and "did the input change" in changed.stderr


def test_resumed_training_equals_uninterrupted(scored, tmp_path):
    line = ("orm", scored, "--epochs", 6, "--save-every", 3, "-q")
    reasonrl(*line, "-o", tmp_path / "whole")
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-m", "reasonrl", *map(str, line), "-o", str(killed)], env=ENVIRONMENT)
    log = tmp_path / "killed.partial" / "metrics.jsonl"
    until = time.time() + 120
    while time.time() < until and not (log.exists() and log.read_bytes().count(b"\n") >= 8):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    reasonrl(*line, "-o", killed, "--resume")
    assert (killed / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (killed / "held_out.json").read_bytes() == (tmp_path / "whole" / "held_out.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])  # bf16: a frozen base in bf16, as on a GPU, under a head in fp32
def test_an_adapter_trains_and_scores(scored, samples, tmp_path, dtype):
    reasonrl("orm", scored, "--lora-rank", 4, "--lora-layers", 1, "--share-prompts", "--lm-weight", 0.5, "--epochs", 1,
             "--lr", "5e-3", "--dtype", dtype, "-o", tmp_path / "adapter")  # fmt: skip
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for name, tensor in weights.items() if "lora_" not in name} == {torch.float32}
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    done = reasonrl("score", samples, "--reward", "orm", "--orm", tmp_path / "adapter", "-q")
    assert len({json.loads(line)["reward"] for line in done.stdout.splitlines()}) > 50


def test_what_cannot_be_trained_on(samples, scored, tmp_path):
    unscored = reasonrl("orm", samples, "-o", tmp_path / "out", check=False)
    assert unscored.returncode == 1 and "samples.jsonl:1" in unscored.stderr and "reasonrl score" in unscored.stderr
    right = [line for line in scored.read_text().splitlines() if json.loads(line)["correct"]]
    (tmp_path / "right.jsonl").write_text("".join(f"{line}\n" for line in right))
    one_kind = reasonrl("orm", tmp_path / "right.jsonl", "-o", tmp_path / "out", check=False)
    assert one_kind.returncode == 1 and "nothing to tell apart" in one_kind.stderr
    assert not (tmp_path / "out").exists()
    policy = reasonrl("score", samples, "--reward", "orm", "--orm", "tiny", check=False)
    assert policy.returncode == 2 and "no outcome reward model" in policy.stderr


@pytest.mark.parametrize(
    "words, wrong",
    [(["--lora-layers", 2], "--lora-rank"), (["--share-prompts", "--attn", "eager"], "needs --attn sdpa")],
)
def test_options_that_do_not_go_together(scored, tmp_path, words, wrong):
    refused = reasonrl("orm", scored, *words, "-o", tmp_path / "out", check=False)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and wrong in refused.stderr


def test_exact_and_dense_need_no_torch(samples, tmp_path):
    line = ["score", str(samples), "--reward", "exact", "--reward", "dense", "-q", "-o", str(tmp_path / "out")]
    code = f"import sys; from reasonrl import cli; assert cli.run({line!r}) == 0; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reward_of_your_own_that_fails_says_where(samples, tmp_path):
    (tmp_path / "verify.py").write_text("def check(records):\n    return [1 / (7 - r['k']) for r in records]\n")
    failed = reasonrl("score", samples, "--reward", f"{tmp_path}/verify.py:check", "-o", tmp_path / "out", check=False)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert "samples.jsonl:8" in failed.stderr and "verify.py:2: ZeroDivisionError" in failed.stderr
    short = reasonrl("score", samples, "--reward", "cmd:head -n 5 | jq .k", check=False)
    assert short.returncode == 1 and "samples.jsonl:6" in short.stderr and short.stdout == ""
    hang = reasonrl("score", samples, "--reward", "cmd:jq -c .k; sleep 99", "--timeout", 1, check=False)
    assert hang.returncode == 1 and "--timeout" in hang.stderr and hang.stdout == ""


def test_names_and_weights(samples):
    done = reasonrl("score", samples, "--reward", "exact", "--reward", "size=cmd:jq '.completion|length'", "--weight",
                    "size=0.001", "-q")  # fmt: skip
    for record in map(json.loads, done.stdout.splitlines()):
        assert record["rewards"] == {"exact": int(record["correct"]), "size": len(record["completion"])}
        assert record["reward"] == pytest.approx(record["correct"] + 0.001 * len(record["completion"]))
    for words in (["--reward", "nosuch"], ["--reward", "exact", "--reward", "exact"], ["--weight", "orm=1"],
                  ["--weight", "exact=much"], ["--reward", "cmd: "]):  # fmt: skip
        refused = reasonrl("score", samples, *words, check=False)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
