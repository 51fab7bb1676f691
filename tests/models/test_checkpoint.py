"""What a checkpoint promises whoever forces, kills and resumes: nothing foreign removed, nothing finished lost."""

import json
import os

import pytest

from reasonrl.errors import AlreadyDone, UsageError
from reasonrl.io.provenance import Run
from reasonrl.models import checkpoint
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.settings import SftSettings
from reasonrl.stages.demo import clear


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begun(main=True, **settings) -> Checkpoint:
    """The checkpoint `out` of a new run."""
    return Checkpoint(Run(SftSettings(output="out", **settings)), main=main)


def trained(force=False) -> Checkpoint:
    """A run that wants only `finish`: weights, and what --resume would need."""
    target = begun(force=force)
    target.open()
    for name in (checkpoint.STATE, checkpoint.SNAPSHOT):
        (target.partial / name).mkdir()
        (target.partial / name / "position.json").write_text('{"update": 3}')
    (target.partial / "model.safetensors").write_bytes(b"weights")
    return target


class Killed(BaseException):
    pass


def kill_at(monkeypatch, where):
    """Stands in for SIGKILL: the call `where`, on a directory, does not return."""

    module, name = {"replace": (os, "replace"), "rmtree": (checkpoint.shutil, "rmtree")}[where]
    real = getattr(module, name)

    def call(path, *words, **more):
        if os.path.isdir(path):
            raise Killed
        return real(path, *words, **more)

    monkeypatch.setattr(module, name, call)


@pytest.mark.parametrize("where", ["rmtree", "replace"])
@pytest.mark.parametrize("old", [False, True])
def test_a_kill_while_a_checkpoint_gets_its_name_loses_nothing(here, monkeypatch, where, old):
    if old:  # which a run with --force is about to replace
        trained().finish({"about": "old"})
    target = trained(force=old)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_at(patched, where)
        target.finish({"about": "new"})
    assert (here / "out" / "reasonrl.json").exists() <= old
    with pytest.raises(UsageError, match="is an unfinished checkpoint"):
        checkpoint.refuse_partial("out.partial")
    with pytest.raises(UsageError, match=r"exists; --resume"):
        begun()
    with pytest.raises(UsageError, match="seed was 0 and is 1"):
        begun(resume=True, seed=1)
    with pytest.raises(AlreadyDone, match="out is complete"):
        begun(resume=True, main=False)
    assert (here / "out.partial").exists()
    for _ in range(2):
        with pytest.raises(AlreadyDone, match="out is complete"):
            begun(resume=True)
        assert sorted(os.listdir("out")) == ["model.safetensors", "reasonrl.json"]
        assert json.loads((here / "out" / "reasonrl.json").read_text())["about"] == "new"
        assert os.listdir() == ["out"]


def test_force_starts_again_where_a_run_was_killed_at_its_end(here, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_at(patched, "replace")
        trained().finish({"about": "old"})
    trained(force=True).finish({"about": "new"})
    assert json.loads((here / "out" / "reasonrl.json").read_text())["about"] == "new"


@pytest.mark.parametrize("stage", ["sft in.jsonl", "orm in.jsonl", "ppo --task mini", "rcrl --data in.jsonl"])
def test_force_removes_no_directory_that_is_no_checkpoint(sh, here, stage):
    (here / "in.jsonl").write_text("{}\n")
    (here / "runs" / "other").mkdir(parents=True)
    done = sh(f"reasonrl {stage} -f -o runs")
    assert done.code == 2 and done.err.count("\n") == 1 and "runs is no checkpoint" in done.err, done.err
    assert (here / "runs" / "other").is_dir() and not (here / "runs.partial").exists()


def test_force_overwrites_a_checkpoint_and_an_empty_directory(here):
    (here / "out").mkdir()
    for number in range(2):
        trained(force=True).finish({"number": number})
        assert json.loads((here / "out" / "reasonrl.json").read_text())["number"] == number
    (here / "out-10").mkdir()
    (here / "out-10" / "notes").write_text("notes")
    with pytest.raises(UsageError, match="out-10 is no checkpoint"):
        trained(force=True).check_numbered([10, 20])


def test_force_lets_the_demo_remove_only_what_a_demo_left(sh, here):
    demo = here / "demo"
    (demo / "report").mkdir(parents=True)
    refused = lambda name: (
        f"reasonrl demo: demo holds {name}, which no demo left there, so --force does not remove it\n"
    )
    for name, present in (("report", []), ("notes.txt", ["round0.greedy.jsonl", "notes.txt"])):
        for file in present:
            (demo / file).write_text("notes")
        done = sh("reasonrl demo -f -o demo")
        assert (done.code, done.err) == (2, refused(name))
        assert {"report", *present} <= set(os.listdir(demo))
    (demo / "notes.txt").unlink()
    (demo / "round1").mkdir()
    clear(demo)
    assert not demo.exists()
