"""`--resume` continues only over what the interrupted run read: the same files, and the same model."""

import json
import shutil

import pytest
from conftest import ROOT, lines

from reasonrl.errors import AlreadyDone, UsageError
from reasonrl.io import jsonl, provenance
from reasonrl.io.provenance import Run
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.settings import PpoSettings

TINY = ROOT / "reasonrl" / "models" / "tiny"


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """`begin(resume=True)`: a new run in `tmp_path`, which reads a file and a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.jsonl").write_text("{}\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")

    def run(resume=False):
        provenance.hash_files.cache_clear()  # as the command line does
        inputs = {"problems": ("kept.jsonl", "-"), "model": "model", "orm": "tiny-orm", "task": "own.py"}
        return Run(PpoSettings(**inputs, output="policy", resume=resume))

    return run


def read_data(run, path):
    """What a stage does with a data set that its settings do not name."""
    reader = jsonl.Reader(path)
    assert len(list(reader)) == 1
    run.has_read([reader])


def interrupt(run, data=None):
    """Leaves a file and a checkpoint, `x` and `policy`, unfinished, as a kill does."""
    if data:
        read_data(run, data)
    with pytest.raises(KeyboardInterrupt), provenance.open_output(run, "x", replay=False) as out:
        out.write({"id": 1})
        raise KeyboardInterrupt
    target = Checkpoint(run)
    target.open()
    target.state.mkdir()
    (target.state / "position.json").write_text('{"update": 3}')


def resume_file(run):
    with provenance.open_output(run, "x", replay=False) as out:
        return out.kept


def resume_checkpoint(run):
    return Checkpoint(run)


def test_what_a_run_reads_is_written_down_at_its_start(begin, tmp_path):
    interrupt(begin())
    for file in ("x.meta.json", "policy.partial/run.json"):
        assert set(json.loads((tmp_path / file).read_bytes())["sources"]) == {"kept.jsonl", "model"}


def test_what_a_run_read_first_stays_written_down_when_it_continues_over_something_else(begin, tmp_path):
    """The stage may yet refuse the other data set, and must then know the first one again."""
    for name in ("first.jsonl", "second.jsonl"):
        (tmp_path / name).write_text(json.dumps({"name": name}) + "\n")
    interrupt(begin(), data="first.jsonl")
    run = begin(resume=True)
    read_data(run, "second.jsonl")
    assert resume_file(run) == 1
    resume_checkpoint(run).open()
    for file in ("x.meta.json", "policy.partial/run.json"):
        read = set(json.loads((tmp_path / file).read_bytes())["sources"])
        assert read == {"kept.jsonl", "model", "first.jsonl", "second.jsonl"}


@pytest.mark.parametrize("changed", ["kept.jsonl", "model/model.safetensors", "model/config.json"])
def test_no_run_continues_over_what_has_changed(begin, tmp_path, changed):
    interrupt(begin())
    before = (tmp_path / changed).read_bytes()
    (tmp_path / changed).write_bytes(before + b"\n")
    run = begin(resume=True)
    for resume, left in ((resume_file, "x"), (resume_checkpoint, "policy.partial")):
        with pytest.raises(UsageError) as refused:
            resume(run)
        which = changed.partition("/")[0]
        complaint = f"{left}: did the input change? {which} is not what it was then; --force starts again"
        assert str(refused.value) == complaint
    (tmp_path / changed).write_bytes(before)
    run = begin(resume=True)
    assert resume_file(run) == 1 and resume_checkpoint(run).has_state


def test_what_does_not_count_as_a_change(begin, tmp_path):
    (tmp_path / "own.py").write_text("mended = 1")
    interrupt(begin())
    (tmp_path / "own.py").write_text("mended = 2")
    (tmp_path / "model" / "samples.jsonl.meta.json").write_text("{}")  # what a run keeps beside the weights
    run = begin(resume=True)
    assert resume_file(run) == 1 and resume_checkpoint(run).has_state


def test_what_is_finished_stays_whatever_became_of_its_inputs(begin, tmp_path):
    interrupt(begin())
    assert resume_file(begin(resume=True)) == 1
    (tmp_path / "kept.jsonl").write_text("other\n")
    with pytest.raises(AlreadyDone):
        resume_file(begin(resume=True))


def test_a_model_too_large_to_be_read_is_known_by_the_time_of_its_change(begin, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "WHOLE_HASH_LIMIT", 4)
    interrupt(begin())
    assert resume_checkpoint(begin(resume=True)).has_state
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weighty")
    with pytest.raises(UsageError, match="model is not what it was"):
        resume_checkpoint(begin(resume=True))


@pytest.mark.slow
def test_training_does_not_continue_over_other_examples(sh, tmp_path, killed_at):
    assert sh("reasonrl data mini --limit 64 -o kept.jsonl && cp kept.jsonl before.jsonl").code == 0
    sft = "reasonrl sft kept.jsonl --epochs 4 --batch-size 8 --save-every 2 -o policy"
    killed_at(sft, "policy.partial/metrics.jsonl", 6)
    assert sh("reasonrl data mini --limit 64 --seed 1 -f -o kept.jsonl").code == 0
    refused = sh(f"{sft} --resume")
    assert (refused.code, refused.out) == (2, b"") and "policy.partial: did the input change? kept.jsonl" in refused.err
    done = sh(f"cp before.jsonl kept.jsonl && {sft} --resume")
    assert done.code == 0 and "resuming after update" in done.err


@pytest.mark.slow
def test_training_does_not_continue_with_another_number_of_processes(sh, tmp_path, killed_at):
    assert sh("reasonrl data mini --limit 64 -o kept.jsonl").code == 0
    sft = "reasonrl sft kept.jsonl --epochs 4 --batch-size 8 --save-every 2 -o policy"
    killed_at(sft, "policy.partial/metrics.jsonl", 6)
    position = tmp_path / "policy.partial" / "state" / "position.json"
    saved = json.loads(position.read_text())
    assert saved["processes"] == 1
    position.write_text(json.dumps(saved | {"processes": 4}))
    refused = sh(f"{sft} --resume")
    assert refused.code == 2 and "saved by 4 processes, and this is a run of 1" in refused.err
    position.write_text(json.dumps(saved))
    assert sh(f"{sft} --resume").code == 0


@pytest.mark.slow
def test_training_does_not_continue_over_other_examples_from_a_pipe(sh, tmp_path, killed_at):
    sft = "reasonrl sft --epochs 4 --batch-size 8 --save-every 2 -o policy"
    killed_at(f"{sft} < <(reasonrl data mini --limit 64)", "policy.partial/metrics.jsonl", 6)
    refused = sh(f"reasonrl data mini --limit 48 | {sft} --resume")
    assert (refused.code, refused.out) == (2, b"") and "policy.partial: did the input change? <stdin>" in refused.err
    done = sh(f"reasonrl data mini --limit 64 | {sft} --resume")
    assert done.code == 0 and "resuming after update" in done.err


@pytest.mark.slow
def test_one_file_holds_samples_of_one_data_set(sh, tmp_path):
    """Ids of a data set are numbers of lines: they fit whatever else stands there, in that file or in another."""
    problems = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(40)]
    for directory, rows in (("sets", problems), ("others", problems[::-1])):
        (tmp_path / directory / "gsm8k").mkdir(parents=True)
        (tmp_path / directory / "gsm8k" / "train.jsonl").write_bytes(lines(*rows))
    sample = "reasonrl sample --task gsm8k --k 8 --max-tokens 40 --batch-tokens 1000 -o s.jsonl"
    assert sh(f"ulimit -f 60; {sample}", REASONRL_DATA="sets").code == 1
    assert sh("cp sets/gsm8k/train.jsonl kept && cp others/gsm8k/train.jsonl sets/gsm8k/").code == 0
    changed = "did the input change? sets/gsm8k/train.jsonl is not what it was"
    misfit = "s.jsonl.partial does not fit these problems"
    for directory, complaint in (("sets", changed), ("others", misfit), ("sets", changed)):  # a refusal forgets nothing
        refused = sh(f"{sample} --resume", REASONRL_DATA=directory)
        assert refused.code == 2 and complaint in refused.err
    assert sh("cp kept sets/gsm8k/train.jsonl").code == 0
    done = sh(f"{sample} --resume", REASONRL_DATA="sets")
    assert done.code == 0 and "resuming after" in done.err


@pytest.mark.slow
def test_one_file_holds_samples_of_one_model(sh, tmp_path):
    shutil.copytree(TINY, tmp_path / "sft")
    draw = "--task mini --limit 40 --k 4 --max-tokens 40 --batch-tokens 1000"
    sample = f"reasonrl sample {draw} --model sft -o sft/s.jsonl"
    assert sh(f"ulimit -f 60; {sample}").code == 1
    kept = (tmp_path / "sft" / "s.jsonl.partial").read_bytes()
    weights = (tmp_path / "sft" / "model.safetensors").read_bytes()
    (tmp_path / "sft" / "model.safetensors").write_bytes(weights[:-1] + b"\0")
    refused = sh(f"{sample} --resume")
    assert refused.code == 2 and "sft/s.jsonl: did the input change? sft is not what it was" in refused.err
    assert kept and (tmp_path / "sft" / "s.jsonl.partial").read_bytes() == kept
    (tmp_path / "sft" / "model.safetensors").write_bytes(weights)
    done = sh(f"{sample} --resume")
    assert done.code == 0 and "resuming after" in done.err
    assert len((tmp_path / "sft" / "s.jsonl").read_bytes().splitlines()) == 160
