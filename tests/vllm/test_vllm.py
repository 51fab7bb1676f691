"""The vllm engine and a real `vllm serve` on loopback, in the environment that `just test-vllm` builds.

A start of vLLM takes the better part of a minute, so for each model the tests share one engine, which holds the base
and an adapter, and one server of the merged weights.
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from reasonrl.models.language_model import BUNDLED, load_language_model, load_tokenizer
from reasonrl.prompts import PromptForm
from reasonrl.sampling.types import Request, Sampling
from reasonrl.tasks import mini
from reasonrl.training.batching import Example, collate

COMMAND = [sys.executable, "-m", "reasonrl"]
FORM = PromptForm()
LENGTH = 512  # of the context
NEW = 48  # tokens
DRAWN = Sampling(k=4, temperature=0.8, max_tokens=NEW, stop=FORM.stop)
GREEDY = Sampling(temperature=0, max_tokens=NEW, stop=FORM.stop)


def run(*words, check=True):
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, done.stderr.decode()
    return done


def sample(*words, **more):
    return run("sample", "--task", "mini", "--split", "test", "--max-tokens", NEW, *words, **more)


def records(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def requests_for(policy, count):
    problems = islice(mini.problems("test"), count)
    return [Request(p["id"], policy.encode_prompt(FORM.render(p["question"]))) for p in problems]


class Server:
    """`vllm serve` on a port of its own; `start` again after `kill` takes the same port."""

    def __init__(self, model, log):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.root, self.log = f"http://127.0.0.1:{port}", log
        self.command = [
            Path(sys.executable).with_name("vllm"), "serve", model, "--host", "127.0.0.1", "--port", str(port),
            "--enforce-eager", "--max-model-len", str(LENGTH), "--dtype", "float32",
        ]  # fmt: skip
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
        until = time.time() + 900
        while time.time() < until:
            assert self.process.poll() is None, f"vllm serve ended:\n{self.log.read_text()[-3000:]}"
            with suppress(OSError):
                urllib.request.urlopen(f"{self.root}/health", timeout=5)
                return
            time.sleep(0.5)
        self.kill()
        raise AssertionError(f"vllm serve did not come up:\n{self.log.read_text()[-3000:]}")

    def kill(self):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module", params=["tiny", "smollm2"])
def model(request):
    return "tiny" if request.param == "tiny" else str(request.getfixturevalue("smollm2"))


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    """A LoRA adapter of the model, as `sft` writes it, that writes something else than its base."""
    directory = tmp_path_factory.mktemp("adapter")
    train, out = directory / "train.jsonl", directory / "adapter"
    run("data", "mini", "--limit", 16, "-o", train)
    run("sft", train, "--model", model, "--lora-rank", 8, "--epochs", 1, "--batch-size", 4, "--lr", 3e-3, "-o", out)
    return str(out)


@pytest.fixture(scope="module")
def merged(adapter, tmp_path_factory):
    """The adapter merged into its base: a directory of plain transformers."""
    directory = str(tmp_path_factory.mktemp("merged"))
    policy = load_language_model(adapter, device="cpu", dtype="fp32")
    policy.model.save_pretrained(directory)
    policy.tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def engine(adapter):
    from reasonrl.sampling.vllm import VLLMEngine

    running = VLLMEngine(load_tokenizer(adapter), engine_args={"enforce_eager": True, "max_model_len": LENGTH})
    assert running.adapter is not None
    yield running
    running.close()


@pytest.fixture(scope="module")
def server(merged, tmp_path_factory):
    running = Server(merged, tmp_path_factory.mktemp("server") / "log")
    yield running
    running.kill()


def check_completions(capsys, what, policy, completions):
    """(prompt ids, ids, log-probabilities, finish) of samples: all there, and as likely as the model itself finds."""
    differences = []
    for prompt_ids, ids, logprobs, finish in completions:
        assert 0 < len(ids) == len(logprobs) <= NEW
        assert (ids[-1] in policy.eos_ids) == (finish == "eos")
        batch = collate([Example(prompt_ids, ids)])
        with torch.no_grad():
            logits = policy.model(input_ids=batch.input_ids).logits[0].float().log_softmax(-1)
        start = len(prompt_ids) - 1
        own = logits[range(start, start + len(ids)), ids]
        differences += (own - torch.tensor(logprobs)).abs().tolist()
    with capsys.disabled():
        mean, most = statistics.mean(differences), max(differences)
        print(f"\n{what}: log-probabilities of {len(differences)} tokens differ by {mean:.1e}, at most {most:.1e}")
    assert most < 2e-2


def test_the_engine_gives_k_samples_with_ids_and_the_models_logprobs(capsys, model, engine):
    requests = requests_for(engine.policy, 6)
    held, engine.adapter = engine.adapter, None  # the base is there beside the adapter
    try:
        drawn = list(engine.sample(requests, DRAWN))
    finally:
        engine.adapter = held
    assert [len(completions) for completions in drawn] == [4] * 6
    assert len({tuple(c.ids) for c in drawn[0]}) > 1
    completions = [
        (r.prompt_ids, c.ids, c.logprobs, c.finish) for r, cs in zip(requests, drawn, strict=True) for c in cs
    ]
    what = f"vllm engine, {Path(model).name}"
    check_completions(capsys, what, load_language_model(model, device="cpu", dtype="fp32"), completions)


def test_a_server_gives_the_same_and_adapter_and_merged_weights_agree(capsys, model, adapter, merged, engine, server):
    words = ["--model", merged, "--base-url", f"{server.root}/v1", "--concurrency", 4]
    served = records(sample(*words, "--limit", 6, "--k", 4, "--logprobs", "--temperature", 0.8))
    assert [(r["id"], r["k"]) for r in served] == [(f"mini/test/{i}", k) for i in range(6) for k in range(4)]
    policy = load_language_model(merged, device="cpu", dtype="fp32")
    for r in served:
        assert r["logprob"] == pytest.approx(sum(r["logprobs"]))
    rows = [(policy.encode_prompt(r["prompt"]), r["completion_ids"], r["logprobs"], r["finish"]) for r in served]
    check_completions(capsys, f"vllm serve, {Path(model).name}", policy, rows)

    requests = requests_for(engine.policy, 8)
    own = [one.text for [one] in engine.sample(requests, GREEDY)]
    greedy = [r["completion"] for r in records(sample(*words, "--limit", 8, "--temperature", 0))]
    assert own == greedy
    held, engine.adapter = engine.adapter, None
    try:
        assert own != [one.text for [one] in engine.sample(requests, GREEDY)]  # it is not the base that speaks
    finally:
        engine.adapter = held


def test_the_death_of_a_server_loses_and_repeats_nothing(model, merged, server, tmp_path):
    problems = 100 if model == "tiny" else 12
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    line = ["--model", merged, "--base-url", f"{server.root}/v1", "--concurrency", "2", "--limit", str(problems),
            "--k", "4", "-o", str(out)]  # fmt: skip
    words = ["sample", "--task", "mini", "--split", "test", "--max-tokens", str(NEW), "--retries", "1"]
    running = subprocess.Popen([*COMMAND, *words, *line], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = time.time() + 300
    while time.time() < until and not (partial.exists() and partial.read_bytes().count(b"\n") >= 8):
        time.sleep(0.02)
    server.kill()
    _, stderr = running.communicate(timeout=300)
    assert running.returncode == 1 and not out.exists()
    assert b"is the server up?" in stderr.splitlines()[-1]
    assert 8 <= partial.read_bytes().count(b"\n") < 4 * problems
    server.start()
    assert b"resuming after" in sample(*line, "--resume").stderr
    rows = [json.loads(row) for row in out.read_text().splitlines()]
    assert [(r["id"], r["k"]) for r in rows] == [(f"mini/test/{i}", k) for i in range(problems) for k in range(4)]
    assert all(r["completion_ids"] and r["logprob"] < 0 for r in rows)


def test_the_stage_itself(tmp_path):
    eager = ["--engine-arg", "enforce_eager=true", "--engine-arg", f"max_model_len={LENGTH}"]
    words = ["--model", BUNDLED["tiny"], "--backend", "vllm", "--limit", 5, "--k", 3, "--logprobs", *eager]
    sample(*words, "-o", tmp_path / "out.jsonl")
    rows = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(r["id"], r["k"]) for r in rows] == [(f"mini/test/{i}", k) for i in range(5) for k in range(3)]
    assert all(len(r["logprobs"]) == len(r["completion_ids"]) for r in rows)
    assert json.loads((tmp_path / "out.jsonl.meta.json").read_text())["engine"] == "VLLMEngine"


def test_what_goes_wrong_is_one_line():
    for words, complaint in [
        (["--engine-arg", "max_modle_len=5"], "did you mean max_model_len?"),
        (["--batch-tokens", "5"], "--batch-tokens means nothing to the vllm engine"),
        (["--engine-arg", "dtype=float7"], "vLLM did not start"),
    ]:
        done = sample("--limit", 1, "--backend", "vllm", *words, check=False)
        assert done.returncode in (1, 2) and done.stdout == b""
        assert complaint in done.stderr.decode().splitlines()[-1]
