"""`reasonrl sample` as a user runs it: records, sources of problems, shards, interruption."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import command


def sample(*words, stdin=b"", check=True, **more):
    source = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    done = subprocess.run(command("sample", *words), capture_output=True, **source, **more)
    assert not check or done.returncode == 0, done.stderr.decode()
    return done


def records(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_without_problems_the_first_16_of_mini_and_a_line_that_says_so():
    done = sample("--max-tokens", 4, stdin=None)
    drawn = records(done)
    assert [r["id"] for r in drawn] == [f"mini/train/{i}" for i in range(16)]
    assert b"no problems given: taking the first 16 of mini" in done.stderr


def test_an_empty_pipe_is_an_error_and_nothing_else_is_sampled_instead():
    done = sample(stdin=b"", check=False)
    assert done.returncode == 1 and done.stdout == b"" and b"input is empty" in done.stderr


def test_a_record_says_what_it_is_and_keeps_what_it_was():
    problem = {"id": "x/1", "question": "Ann has 3 pens. She buys 4 pens. How many?", "answer": "7", "mine": {"a": [1]}}
    drawn = records(sample("--k", 2, "--logprobs", "--seed", 5, stdin=json.dumps(problem).encode()))
    assert [r["k"] for r in drawn] == [0, 1]
    for r in drawn:
        assert {key: r[key] for key in problem} == problem and r["reference"] is None
        assert r["prompt"] == f"Question: {problem['question']}\nAnswer:\n" and r["shots"] == 0
        assert r["finish"] in ("eos", "stop", "length") and (r["temperature"], r["top_p"], r["seed"]) == (1, 1, 5)
        assert len(r["logprobs"]) == len(r["completion_ids"])
        assert r["logprob"] == pytest.approx(sum(r["logprobs"]))


def test_shards_together_are_the_whole():
    line = ("--task", "mini", "--limit", 10, "--k", 2, "--max-tokens", 24)
    whole = {(r["id"], r["k"]): r["completion"] for r in records(sample(*line, stdin=None))}
    shards = [records(sample(*line, "--shard", f"{i}/3", stdin=None)) for i in range(3)]
    assert [len({r["id"] for r in shard}) for shard in shards] == [4, 3, 3]
    together = {(r["id"], r["k"]): r["completion"] for shard in shards for r in shard}
    assert together.keys() == whole.keys()
    assert sum(together[key] == whole[key] for key in whole) >= 19  # rounding may tip one


def test_a_shard_beyond_the_problems_is_empty(tmp_path):
    problems = b"".join(b'{"id": "mini/x/%d", "question": "1 + 1?", "answer": "2"}\n' % n for n in range(2))
    for more in ((), ("--shots", 2), ("--dry-run",)):
        done = sample("--shard", "3/8", *more, stdin=problems)
        assert (done.stdout, done.stderr.count(b"\n")) == (b"", 1) and b"no problem falls to --shard 3/8" in done.stderr
    out = tmp_path / "shard3.jsonl"
    for _ in range(2):
        sample("--shard", "3/8", "--resume", "-o", out, stdin=problems)
        assert out.read_bytes() == b"" and json.loads((tmp_path / "shard3.jsonl.meta.json").read_text())["finished"]


def test_new_samples_have_nothing_of_an_older_completion():
    earlier = {
        "condition": "[GOOD]", "logprobs": [0.0], "correct": True, "correct_strict": True, "correct_flexible": True,
        "extracted": "7", "rewards": {"orm": 1}, "reward": 1, "step_rewards": {"dense": [1]},
        "step_values": {"mc": [1]}, "start_value": {"mc": 1}, "labels": ["[GOOD]"], "cost": {"tokens": 1},
    }  # fmt: skip
    problem = {"id": "x/1", "question": "3 + 4?", "answer": "7", "mine": 1}
    for old in (earlier | {"completion": "#### 7", "completion_ids": [1], "finish": "eos", "k": 5}, earlier):
        (new,) = records(sample("--max-tokens", 2, stdin=json.dumps(problem | old).encode()))
        assert new["completion"] != "#### 7" and new["k"] == 0 and new | problem == new
        kept = set() if "completion" in old else earlier.keys()  # a problem keeps its own
        assert earlier.keys() & new.keys() == kept


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed_loses_nothing_and_repeats_nothing(tmp_path, how):
    line = ["--task", "mini", "--limit", "240", "--k", "4", "--max-tokens", "64", "--batch-tokens", "2500"]
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "reasonrl", "sample", *line, "-o", str(out)],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    partial = tmp_path / "out.jsonl.partial"
    until = time.time() + 60
    while time.time() < until and not (partial.exists() and partial.read_bytes().count(b"\n") > 60):
        time.sleep(0.02)
    process.send_signal(how)
    assert process.wait() == (130 if how is signal.SIGINT else -how)
    assert not out.exists() and json.loads((tmp_path / "out.jsonl.meta.json").read_text())["finished"] is False
    with open(partial, "ab") as stream:
        stream.write(b'{"id": "mini/tra')  # a torn line, as a full disk leaves it
    refused = sample(*line, "-o", out, stdin=None, check=False)
    assert refused.returncode == 2 and b"--resume" in refused.stderr
    other = sample(*line, "--seed", 1, "-o", out, "--resume", stdin=None, check=False)
    assert other.returncode == 2 and b"seed was 0 and is 1" in other.stderr
    done = sample(*line, "-o", out, "--resume", stdin=None)
    assert b"resuming after" in done.stderr
    sample(*line, "-o", whole, stdin=None)
    resumed, uninterrupted = (
        [(r["id"], r["k"], r["completion"]) for r in map(json.loads, path.read_text().splitlines())]
        for path in (out, whole)
    )
    assert [key[:2] for key in resumed] == [key[:2] for key in uninterrupted]
    assert sum(a == b for a, b in zip(resumed, uninterrupted, strict=True)) >= 0.99 * len(uninterrupted)
    meta = json.loads((tmp_path / "out.jsonl.meta.json").read_text())
    assert meta["finished"] and meta["counts"]["records"] == 960 and len(meta["model"]["sha256"]) == 64
    drawn = sum(len(json.loads(line)["completion_ids"]) for line in out.read_text().splitlines())
    assert meta["counts"]["tokens"] == drawn  # both runs'
    start = time.time()
    real = [sys.executable, "-m", "reasonrl", "sample", *line, "-o", out, "--resume"]  # a fork has torch already
    assert subprocess.run(real, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    assert time.time() - start < 2  # no model was loaded


def test_batches_are_flushed_while_the_run_goes_on():
    line = ["--task", "mini", "--limit", "2000", "--k", "8", "--max-tokens", "64", "--batch-tokens", "2500"]
    process = subprocess.Popen(
        command("sample", *line), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    first = process.stdout.readline()
    assert json.loads(first)["id"] == "mini/train/0" and process.poll() is None
    process.stdout.close()  # `| head -1`
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--model", "./nowhere"], 2, "no such model"),
        (["--model", "/tmp"], 2, "no config.json"),
        (["--shard", "3/3"], 2, "--shard 3/3"),
        (["--task", "nothing"], 2, "no task 'nothing'"),
        (["--top-p", "0"], 2, "--temperature 0 is greedy"),
        (["--prompt", "nofile"], 2, "--prompt nofile"),
        (["--prompt", "chat"], 2, "no chat template"),
        (["missing.jsonl"], 2, "no such file"),
    ],
)
def test_bad_input_is_one_line(words, code, complaint):
    done = sample(*words, stdin=None, check=False)
    assert done.returncode == code and done.stdout == b""
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("reasonrl sample: ") and complaint in last
    assert "Traceback" not in done.stderr.decode()


def test_a_prompt_beyond_the_context_names_the_problem():
    long = {"id": "x/9", "question": "pens " * 2000, "answer": "1"}
    done = sample(stdin=json.dumps(long).encode(), check=False)
    assert done.returncode == 1 and b"x/9" in done.stderr and b"context" in done.stderr


def test_prompt_file_and_stop_strings(tmp_path):
    form = tmp_path / "form.txt"
    form.write_text("Problem: {question}\nSolution:\n")
    drawn = records(sample("--prompt", form, "--stop", "=", "--limit", 3, "--task", "mini", stdin=None))
    assert all(r["prompt"].startswith("Problem: ") and "=" not in r["completion"] for r in drawn)


def test_torch_stages_wait_passively():
    code = "import os, sys; from reasonrl import cli; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout
    assert shown.split() == ["PASSIVE", "False"]
