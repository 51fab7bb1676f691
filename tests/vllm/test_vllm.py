"""The vllm engine and a real `vllm serve` on loopback, in the environment that `just test-vllm` builds.

SMOLLM2 names the directory of SmolLM2-135M-Instruct (recipes/smollm2.sh).
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
from pathlib import Path

import pytest

from reasonrl.models.policy import BUNDLED, load_policy
from reasonrl.training.batching import Example, collate

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

SMOLLM2 = os.environ.get("SMOLLM2", "")
MODELS = ["tiny", SMOLLM2]
EAGER = ["--engine-arg", "enforce_eager=true", "--engine-arg", "max_model_len=512"]
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} | os.environ


def sample(*words, check=True, **more):
    line = [sys.executable, "-m", "reasonrl", "sample", "--task", "mini", "--split", "test", *map(str, words)]
    done = subprocess.run(line, capture_output=True, env=ENVIRONMENT, stdin=subprocess.DEVNULL, **more)
    assert not check or done.returncode == 0, done.stderr.decode()
    return done


def records(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


class Server:
    """`vllm serve` on a port of its own; `start` again after `kill` takes the same port."""

    def __init__(self, model, *words):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        # What `vllm serve` starts; that command asks for the version of a package named vllm, and vllm-cpu is none.
        self.command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", BUNDLED.get(model, model),
            "--host", "127.0.0.1", "--port", str(self.port), "--enforce-eager", "--max-model-len", "512",
            "--dtype", "float32", *words,
        ]  # fmt: skip
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def wait(self, seconds=300):
        until = time.time() + seconds
        while time.time() < until:
            assert self.process.poll() is None, "vllm serve ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5)
                return self
            except OSError:
                time.sleep(0.5)
        raise AssertionError("vllm serve did not come up")

    def kill(self):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module", params=MODELS, ids=["tiny", "smollm2"])
def model(request):
    assert request.param, "set SMOLLM2 to the directory that recipes/smollm2.sh made"
    return request.param


def check_records(found, problems, k, model):
    assert len(found) == problems * k
    assert [r["k"] for r in found] == list(range(k)) * problems
    policy = load_policy(model, device="cpu", dtype="fp32")
    differences = []
    for r in found:
        ids, logprobs = r["completion_ids"], r["logprobs"]
        assert len(ids) == len(logprobs) and r["logprob"] == pytest.approx(sum(logprobs))
        assert (ids[-1] in policy.eos_ids) == (r["finish"] == "eos")
        example = Example(policy.encode_prompt(r["prompt"]), ids)
        batch = collate([example], policy.pad_id)
        with torch.no_grad():
            logits = policy.model(input_ids=batch.input_ids).logits[0].float().log_softmax(-1)
        start = len(example.prompt_ids) - 1
        ours = logits[range(start, start + len(ids)), ids]
        differences += (ours - torch.tensor(logprobs)).abs().tolist()
    print(f"\n{model}: {len(differences)} tokens, mean {statistics.mean(differences):.2e}, most {max(differences):.2e}")
    assert max(differences) < 2e-2


def test_the_engine_gives_k_samples_with_ids_and_the_models_logprobs(model):
    words = ["--model", model, "--limit", 6, "--k", 4, "--max-tokens", 48, "--logprobs", "--temperature", 0.8]
    found = records(sample(*words, "--backend", "vllm", *EAGER))
    check_records(found, 6, 4, model)


def test_a_server_gives_the_same_and_its_death_loses_and_repeats_nothing(model, tmp_path):
    server = Server(model)
    try:
        server.wait()
        words = ["--model", model, "--max-tokens", 48, "--base-url", server.url, "--concurrency", 2]
        found = records(sample(*words, "--limit", 6, "--k", 4, "--logprobs", "--temperature", 0.8))
        check_records(found, 6, 4, model)

        out = tmp_path / "out.jsonl"
        line = [*words, "--limit", 60, "--k", 4, "-o", out]
        command = [sys.executable, "-m", "reasonrl", "sample", "--task", "mini", "--split", "test", *map(str, line)]
        running = subprocess.Popen([*command, "--retries", "1"], env=ENVIRONMENT, stdin=subprocess.DEVNULL)
        partial = Path(f"{out}.partial")
        until = time.time() + 120
        while time.time() < until and not (partial.exists() and partial.read_bytes().count(b"\n") >= 8):
            time.sleep(0.02)
        server.kill()
        assert running.wait(timeout=120) == 1 and not out.exists()
        held = partial.read_bytes().count(b"\n")
        assert 8 <= held < 240
        server.start()
        server.wait()
        resumed = sample(*line, "--resume")
        assert b"resuming behind" in resumed.stderr
        rows = [json.loads(row) for row in out.read_text().splitlines()]
        assert [(r["id"], r["k"]) for r in rows] == [(f"mini/test/{i}", k) for i in range(60) for k in range(4)]
        assert not any("\x00" in r["completion"] for r in rows)
    finally:
        server.kill()


def test_an_adapter_and_its_merged_weights_give_the_same_greedy_text(model, tmp_path):
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    subprocess.run(
        f"reasonrl data mini --limit 64 -o train.jsonl && reasonrl sft train.jsonl --model {model} --lora-rank 8"
        f" --epochs 1 --batch-size 16 --lr 1e-3 -o {adapter}",
        shell=True, check=True, cwd=tmp_path, env=ENVIRONMENT,
    )  # fmt: skip
    policy = load_policy(str(adapter), device="cpu", dtype="fp32")
    policy.model.save_pretrained(merged)
    policy.tokenizer.save_pretrained(merged)
    words = ["--limit", 8, "--temperature", 0, "--max-tokens", 48, "--backend", "vllm", *EAGER]
    texts = [[r["completion"] for r in records(sample("--model", path, *words))] for path in (adapter, merged)]
    assert texts[0] == texts[1]
    base = [r["completion"] for r in records(sample("--model", model, *words))]
    assert texts[0] != base


def test_what_goes_wrong_is_one_line():
    for words, said in [
        (["--engine-arg", "max_modle_len=5"], "did you mean max_model_len?"),
        (["--batch-tokens", "5"], "--batch-tokens means nothing to the vllm engine"),
        (["--engine-arg", "dtype=float7"], "vLLM did not start"),
    ]:
        done = sample("--limit", 1, "--backend", "vllm", *words, check=False)
        assert done.returncode in (1, 2) and done.stdout == b""
        assert said in done.stderr.decode().splitlines()[-1]
