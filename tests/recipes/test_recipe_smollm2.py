"""Real weights and real problems: one round of the very same recipe with SmolLM2-135M-Instruct on GSM8K."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import command

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("REASONRL_DATA", ROOT.parent / "shared" / "data"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "gsm8k").exists(), reason="REASONRL_DATA has no gsm8k")
def test_one_round_on_gsm8k(smollm2, tmp_path):
    environment = os.environ | {
        "REASONRL": f"{sys.executable} -m reasonrl", "REASONRL_DATA": str(DATA), "TASK": "gsm8k", "BASE": str(smollm2),
        "ROUNDS": "1", "K": "4", "LIMIT": "32", "MAX_TOKENS": "128", "EXTRA": str(tmp_path / "references.jsonl"),
        "SFT": "--lora-rank 8 --lr 2e-4 --epochs 1 --batch-size 16",
        "EVAL_LIMIT": "16", "EVAL_PASS_LIMIT": "0",
        "OUT": str(tmp_path / "run"),
    }  # fmt: skip
    references = subprocess.run(
        command("data", "gsm8k", "--limit", "64", "-o", tmp_path / "references.jsonl"),
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert references.returncode == 0, references.stderr
    run = subprocess.run(
        ["bash", ROOT / "recipes" / "expert_iteration.sh"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    out = tmp_path / "run"

    samples = lines(out / "round1.scored.jsonl")
    assert [(r["id"], r["k"]) for r in samples] == [(f"gsm8k/train/{i}", k) for i in range(32) for k in range(4)]
    for r in samples:
        assert r["finish"] in ("eos", "stop", "length") and 0 < len(r["completion_ids"]) <= 128
        assert (r["finish"] == "length") <= (len(r["completion_ids"]) == 128)
        assert r["logprob"] < 0 and "\nQuestion:" not in r["completion"]
        assert r["correct"] == r["correct_strict"] <= r["correct_flexible"] and r["rewards"]["exact"] == r["reward"]
    kept = lines(out / "round1.kept.jsonl")
    assert all(r["correct"] for r in kept)
    marker = json.loads((out / "round1" / "reasonrl.json").read_text())
    assert marker["examples"] == len(kept) + 64
    trained = lines(out / "round1" / "metrics.jsonl")
    assert len(trained) == marker["updates"] and trained[-1]["loss"] < trained[0]["loss"] + 0.2
    for round_ in (0, 1):
        [record] = lines(out / f"round{round_}.metrics.jsonl")
        assert [(m["name"], m["k"], m["n"]) for m in record["metrics"]] == [("maj", 1, 16)]
    assert (out / "report" / "report.md").exists()
    for name in ("round1.samples", "round0.greedy", "round1.greedy"):
        meta = json.loads((out / f"{name}.jsonl.meta.json").read_text())
        assert meta["finished"] and meta["tokens_per_second"] > 0 and meta["seconds"] > 0
