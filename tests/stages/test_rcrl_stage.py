"""`reasonrl rcrl` and `sample --condition` as their users run them: in one go, in two, killed, with wrong input."""

import json
import shlex
import sys

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from reasonrl import cli

DRAW = "--task mini --limit 24 --solutions 8 --k 4 --max-tokens 48 --device cpu -q"
LEARN = "--batch-size 16 --epochs 1"


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """A command line in this process, in `tmp_path` → exit code, stdout, stderr: spares the start of torch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REASONRL_MODEL", raising=False)

    def go(line):
        capfd.readouterr()
        code = cli.run(shlex.split(line))
        return code, *capfd.readouterr()

    return go


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run in one go that keeps its labelled records: out, labelled.jsonl."""
    directory = tmp_path_factory.mktemp("rcrl")
    assert cli.run(shlex.split(f"rcrl {DRAW} {LEARN} --save-data {directory}/labelled.jsonl -o {directory}/out")) == 0
    return directory


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def metrics(checkpoint):
    timed = ("seconds", "tokens_per_second")
    return [
        {name: value for name, value in line.items() if name not in timed}
        for line in rows(checkpoint / "metrics.jsonl")
    ]


def marker(checkpoint):
    return json.loads((checkpoint / "reasonrl.json").read_text())


def same_weights(one, other, name="model.safetensors"):
    one, other = load_file(one / name), load_file(other / name)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_labelled_records_say_all(made):
    records = rows(made / "labelled.jsonl")
    assert [(one["id"], one["k"]) for one in records] == [(f"mini/train/{i}", k) for i in range(24) for k in range(8)]
    for one in records:
        steps = [line for line in one["completion"].split("\n") if line.strip()]
        assert len(one["labels"]) == len(one["step_values"]["mc"]) == len(steps)
        assert one["labels"] == ["[GOOD]" if value >= 0.5 else "[BAD]" for value in one["step_values"]["mc"]]
        assert one["step_values"]["mc"][-1:] in ([], [one["correct"] * (one["finish"] != "length")])
        assert "[" not in one["completion"]
    about = marker(made / "out")
    total = {name: sum(one["cost"][name] for one in records) for name in records[0]["cost"]}
    assert about["labelling"] == total == metrics(made / "out")[0]["labelling"]
    assert json.loads((made / "labelled.jsonl.meta.json").read_text())["counts"] == {"records": 192} | total
    assert about["labels"] == {"good": "[GOOD]\n", "bad": "[BAD]\n"}
    assert about["balance"]["kept"] == 2 * min(about["balance"]["right"], about["balance"]["wrong"]) > 0
    explained = (ROOT / "docs" / "rcrl.md").read_text(encoding="utf-8")
    for name in (*total, *about["balance"]):
        assert f"`{name}`" in explained, f"docs/rcrl.md does not explain {name}"
    assert not list(made.glob("*.partial")) and not list((made / "out").glob("labelled*"))


def test_two_stages_make_what_one_makes(made, run, tmp_path):
    code, out, err = run(f"rcrl --data {made}/labelled.jsonl {LEARN} --device cpu -q -o two")
    assert (code, out) == (0, "two\n"), err
    assert same_weights(tmp_path / "two", made / "out") and metrics(tmp_path / "two") == metrics(made / "out")
    code, out, _ = run(f"rcrl {DRAW} {LEARN} --save-data only.jsonl")  # no checkpoint is wanted
    assert (code, out) == (0, "") and (tmp_path / "only.jsonl").read_bytes() == (made / "labelled.jsonl").read_bytes()


def test_owners_may_change_labels_and_thresholds(made, run, tmp_path):
    records = rows(made / "labelled.jsonl")
    swap = {"[GOOD]": "[BAD]", "[BAD]": "[GOOD]"}
    swapped = [one | {"labels": [swap[label] for label in one["labels"]]} for one in records]
    (tmp_path / "swapped.jsonl").write_text("".join(json.dumps(one) + "\n" for one in swapped))
    for file, name in ((tmp_path / "swapped.jsonl", "swapped"), (made / "labelled.jsonl", "higher")):
        flags = "--threshold 0.9" if name == "higher" else ""
        assert run(f"rcrl --data {file} {flags} {LEARN} --epochs 0 --device cpu -q -o {name}")[0] == 0
    plain, other = marker(made / "out")["balance"], marker(tmp_path / "swapped")["balance"]
    assert (plain["right"], plain["wrong"]) == (other["wrong"], other["right"])
    assert marker(tmp_path / "higher")["balance"]["good_steps"] < plain["good_steps"]


def test_sampling_needs_no_flags_and_obeys_them(made, run):
    line = f"sample --model {made}/out --task mini --split test --limit 6 --k 2 --max-tokens 48 --device cpu -q"
    code, out, err = run(line)
    assert code == 0, err
    good = [json.loads(one) for one in out.splitlines()]
    bad = [json.loads(one) for one in run(f"{line} --condition '[BAD]'")[1].splitlines()]
    assert run(f"{line} --condition '[GOOD]'")[1] == out
    assert {one["condition"] for one in good} == {"[GOOD]"} and {one["condition"] for one in bad} == {"[BAD]"}
    assert [one["completion_ids"] for one in good] != [one["completion_ids"] for one in bad]
    assert not any("[" in one["completion"] or "OD]" in one["prompt"] for one in good + bad)
    sharded = run(f"{line} --shard 0/2")[1] + run(f"{line} --shard 1/2")[1]
    drawn = {(one["id"], one["k"]): one["completion_ids"] for one in map(json.loads, sharded.splitlines())}
    assert drawn == {(one["id"], one["k"]): one["completion_ids"] for one in good}
    code, out, err = run(f"{line} --dry-run --condition '[BAD]'")
    plan = json.loads(out)
    assert (
        plan["prompt"].endswith("Answer:\n[BAD]\n")
        and plan["plan"]["condition"] == "[BAD]"
        and "| [BAD]" in run(line.replace(" -q", " --dry-run") + " --condition '[BAD]'")[2]
    )
    code, _, err = run(f"{line} --condition best")
    assert code == 2 and "knows [GOOD] and [BAD]" in err
    code, _, err = run("sample --limit 1 --task mini --condition '[GOOD]'")
    assert code == 2 and "tiny was not trained on labels" in err


def test_labels_as_tokens(made, run, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    code, _, err = run(f"rcrl --data {made}/labelled.jsonl --labels tokens {LEARN} --device cpu -q -o out")
    assert code == 0, err
    model, tokenizer = AutoModelForCausalLM.from_pretrained("out"), AutoTokenizer.from_pretrained("out")
    assert model.config.vocab_size == len(tokenizer) == model.get_input_embeddings().weight.shape[0] == 2306
    assert tokenizer.encode("[GOOD]a[BAD]")[::2] == [2304, 2305]
    assert marker(tmp_path / "out")["labels"] == {"good": "[GOOD]", "bad": "[BAD]"}
    code, out, err = run("sample --model out --task mini --limit 4 --k 4 --max-tokens 48 --device cpu -q")
    assert code == 0, err
    for one in map(json.loads, out.splitlines()):
        assert not {2304, 2305} & set(one["completion_ids"]) and "[" not in one["completion"]


@pytest.mark.slow
def test_a_killed_labelling_labels_no_prefix_twice(sh, killed_at, tmp_path):
    """More problems than are labelled at a time: the first ones stay as they are."""
    line = f"reasonrl rcrl {DRAW} {LEARN} --solutions 64 --k 1 --max-tokens 32 --epochs 0"
    assert sh(f"{line} --save-data whole.jsonl -o whole", timeout=600).code == 0
    killed_at(f"{line} -o killed", "killed.partial/labelled.jsonl.partial", 4)
    partial = tmp_path / "killed.partial" / "labelled.jsonl.partial"
    kept = partial.read_bytes()
    assert 0 < kept.count(b"\n") < 24 * 64 and not (tmp_path / "killed").exists()
    refused = sh(f"{line} -o killed")
    assert refused.code == 2 and "--resume continues" in refused.err
    done = sh(f"{line.replace(' -q', '')} -o killed --resume", timeout=600)
    assert done.out == b"killed\n", done.err
    assert f"resuming after {kept.count(bytes([10])) // 64} of 24 problems" in done.err
    # Not byte for byte: the resumed run's batches are others, so log-probabilities differ in their last digits.
    for field in ("labelling", "balance"):
        assert marker(tmp_path / "killed")[field] == marker(tmp_path / "whole")[field]
    assert same_weights(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_fine_tuning_ends_at_the_same_weights(made, sh, killed_at, tmp_path):
    line = f"reasonrl rcrl {DRAW} --batch-size 4 --epochs 6 --save-every 3"
    assert sh(f"{line} -o whole", timeout=600).code == 0
    killed_at(f"{line} -o killed", "killed.partial/metrics.jsonl", 8)
    labelled = (tmp_path / "killed.partial" / "labelled.jsonl").read_bytes()
    assert labelled == (made / "labelled.jsonl").read_bytes()
    assert sh(f"{line} -o killed --resume", timeout=600).out == b"killed\n"
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert same_weights(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_give_the_single_process_loss(made, sh, tmp_path):
    line = f"rcrl --data {made}/labelled.jsonl --batch-size 7 --epochs 2 --device cpu -q"
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    assert sh(f"reasonrl {line} -o one", timeout=300).code == 0
    done = sh(f"{sys.executable} -m accelerate.commands.launch {options} -m reasonrl {line} -o two", timeout=600)
    assert done.out == b"two\n", done.err
    for one, two in zip(metrics(tmp_path / "one")[1:], metrics(tmp_path / "two")[1:], strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-4)
        assert one["completion_tokens"] == two["completion_tokens"]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--task mini", "name the checkpoint's directory"),
        ("--task mini --data x.jsonl -o out", "leave out problems"),
        ("--task mini --labels tokens --lora-rank 4 -o out", "leave out --lora-rank"),
        ("--task mini --temperature 0 -o out", "its mean says nothing"),
        ("--task mini --model {made}/out -o out", "drawn without labels"),
        ("--task mini --base {made}/out -o out", "--base"),
        ("--task mini --limit 2 --max-tokens 2 --device cpu -o out", "no label to tell apart"),
        ("--data poor.jsonl -o out", "poor.jsonl:1: want 2 labels"),
        ("--data missing.jsonl -o out", "no such file"),
        ("--data half.jsonl -o out", "has not finished"),
    ],
)  # fmt: skip
def test_wrong_input_is_reported_in_one_line(made, run, tmp_path, flags, complaint):
    poor = {"id": "a", "question": "?", "completion": "A\nB", "labels": ["[GOOD]"]}
    (tmp_path / "poor.jsonl").write_text(json.dumps(poor) + "\n")
    (tmp_path / "half.jsonl").write_text(json.dumps(poor) + "\n")
    (tmp_path / "half.jsonl.meta.json").write_text('{"finished": false}')
    code, _, err = run(f"rcrl {flags.format(made=made)}")
    assert code in (1, 2)
    assert complaint in err.splitlines()[-1], err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("line", ["ppo --task mini", "sft labelled.jsonl", "orm labelled.jsonl"])
def test_other_trainers_refuse_a_policy_that_reads_labels(made, run, line):
    code, _, err = run(f"{line.replace('labelled', f'{made}/labelled')} --model {made}/out -o other")
    assert code == 2 and "reads a label before each step" in err.splitlines()[-1]
