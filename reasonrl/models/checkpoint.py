"""Checkpoints: a directory that plain transformers can load, plus `reasonrl.json`, written last.

A directory without that marker is no checkpoint, nor is `OUT.partial`, which an interrupted run leaves. Never imports
torch.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from reasonrl.errors import AlreadyDone, UsageError
from reasonrl.io import jsonl
from reasonrl.io.provenance import Run
from reasonrl.prompts import PromptForm

MARKER = "reasonrl.json"
STATE = "state"  # what --resume needs; removed when the checkpoint is complete
NEW_STATE = "state.new"  # the next one while it is being written
METRICS = "metrics.jsonl"
LABELLED = "labelled.jsonl"  # what rcrl learns from, unless it is kept elsewhere
SNAPSHOT = "snapshot"  # the last policy of an unfinished run that was seen to be good, a checkpoint in itself


def read_marker(directory: str | Path) -> dict[str, Any]:
    """What the checkpoint's marker says; {} for a model that reasonrl did not make."""
    marker = Path(directory, MARKER)
    return jsonl.read_json(marker) if marker.exists() else {}


def preset_of(model: str) -> str:
    """The preset that `--preset auto` takes for a model: tiny for the bundled one and what was trained from it."""
    return "tiny" if model == "tiny" or read_marker(model).get("preset") == "tiny" else "paper"


def remembered_form(directory: str | Path) -> PromptForm | None:
    saved = read_marker(directory).get("prompt")
    return PromptForm.from_json(saved) if saved else None


class Checkpoint:
    """A checkpoint in the making: `partial` holds the work, `finish` puts the marker in and gives it its name.

    Raises AlreadyDone where `resume` finds it finished, UsageError where it would overwrite something. Of several
    processes only the first (`main`) looks at unfinished work, clears it away (`open`) and makes the directory.
    """

    def __init__(self, run: Run, main: bool = True):
        settings = run.settings
        output, force, resume = settings.output, settings.force, settings.resume
        self.run, self.main, self.is_open = run, main, False
        self.path = Path(output)
        self.partial = Path(f"{output.rstrip('/')}.partial")
        self.force, self.keep = force, resume and not force
        # The one in the making comes first: of several processes another may find what the first has just renamed.
        for finished in (self.partial, self.path) if self.keep else ():
            if (finished / MARKER).exists():
                run.check_same(read_marker(finished), str(finished))
                if main and finished == self.partial:  # all that a run was killed before is the name
                    self._refuse_foreign(self.path)
                    self._give_name()
                raise AlreadyDone(f"{output} is complete")
        if not main:
            return
        if force:
            self._refuse_foreign(self.path)
            return
        if _is_taken(self.path):
            raise UsageError(f"{output} exists; --resume keeps a finished checkpoint, --force overwrites it")
        if self.has_state and not resume:
            raise UsageError(f"{self.partial} exists; --resume continues from it, --force starts again")
        if self.has_state:
            run.check_same(jsonl.read_json(self.partial / "run.json"), str(self.partial), going_on=True)

    @staticmethod
    def _refuse_foreign(target: Path) -> None:
        """Raises UsageError where `target` holds something that is no checkpoint: an output must not overwrite it."""
        if _is_taken(target) and not (target / MARKER).exists():
            raise UsageError(
                f"{target} is no checkpoint (no {MARKER} in it), so nothing overwrites it; remove it first"
            )

    @property
    def has_state(self) -> bool:
        """Whether an interrupted run left something to continue from, or all but the name."""
        states = (f"{name}/position.json" for name in (STATE, NEW_STATE))
        return any((self.partial / name).exists() for name in (*states, LABELLED, f"{LABELLED}.partial", MARKER))

    def open(self) -> None:
        """Makes the directory of the work in progress; without `resume`, or with nothing saved, an empty one. Once."""
        if not self.main or self.is_open:
            return
        self.is_open = True
        before = {}
        if self.keep and self.has_state:  # looked at before, but now stdin has been read too
            before = jsonl.read_json(self.partial / "run.json")
            self.run.check_same(before, str(self.partial), going_on=True)
        else:
            shutil.rmtree(self.partial, ignore_errors=True)
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot make the directory ({error.strerror})") from None
        about = self.run.describe() | {"sources": self.run.sources(before)}
        jsonl.write_json(self.partial / "run.json", about)

    @property
    def state(self) -> Path:
        return self.partial / STATE

    @property
    def metrics(self) -> Path:
        return self.partial / METRICS

    def finish(self, about: dict[str, Any]) -> None:
        """Writes the marker and renames. `about` is added to arguments, versions and git state.

        The marker is written before the state goes: a run that is killed in between is finished by `--resume`."""
        self._mark(self.partial, about)
        self._give_name()

    def _give_name(self) -> None:
        """Clears away what only an unfinished run needs, and renames; all of it may be done again."""
        for name in (STATE, NEW_STATE, SNAPSHOT):
            (self.partial / name / "position.json").unlink(missing_ok=True)  # half a state is none
            shutil.rmtree(self.partial / name, ignore_errors=True)
        for file in (self.partial / "run.json", *self.partial.glob(f"{LABELLED}*")):
            file.unlink(missing_ok=True)
        _rename(self.partial, self.path)

    # Checkpoints of a run that is not at its end

    def write_snapshot(self, save: Callable[[Path], None], about: dict[str, Any]) -> None:
        """Replaces the snapshot by what `save` puts into a directory."""
        self._write_aside(self.partial / SNAPSHOT, save, about)

    def numbered(self, number: int) -> Path:
        """Where a checkpoint on the way stands, beside the one in the making: OUT-NUMBER."""
        return self.path.with_name(f"{self.path.name}-{number}")

    def check_numbered(self, numbers: Iterable[int]) -> None:
        """Raises UsageError where a checkpoint on the way would overwrite what another run, or somebody, left."""
        for target in map(self.numbered, numbers):
            if not self.main or not target.exists():
                continue
            if self.force:
                self._refuse_foreign(target)
                continue
            if not self.keep or not (target / MARKER).exists():
                raise UsageError(f"{target} exists, and --keep-every would overwrite it; --force does")
            self.run.check_same(read_marker(target), str(target))

    def write_numbered(self, number: int, save: Callable[[Path], None], about: dict[str, Any]) -> None:
        self._write_aside(self.numbered(number), save, about)

    def release_snapshot(self) -> Path | None:
        """Gives the snapshot a name of its own, OUT.last-good; None where there is none."""
        target = self.path.with_name(f"{self.path.name}.last-good")
        if not (self.partial / SNAPSHOT / MARKER).exists():
            return target if self.keep and (target / MARKER).exists() else None  # the run before this one released it
        shutil.rmtree(target, ignore_errors=True)
        os.replace(self.partial / SNAPSHOT, target)
        return target

    def _write_aside(self, target: Path, save: Callable[[Path], None], about: dict[str, Any]) -> None:
        aside = target.with_name(f"{target.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save(aside)
        self._mark(aside, about)
        _rename(aside, target)

    def _mark(self, work: Path, about: dict[str, Any]) -> None:
        """Readable weights and the marker: all that makes a checkpoint but its name."""
        mask = os.umask(0)
        os.umask(mask)
        for path in work.glob("*.safetensors"):
            path.chmod(0o666 & ~mask)  # transformers writes weights readable by their owner only
        jsonl.write_json(work / MARKER, self.run.describe() | about)


def _is_taken(path: Path) -> bool:
    """Whether there is something at `path` beyond an empty directory."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _rename(work: Path, target: Path) -> None:
    """Gives finished work its name, in place of what had it."""
    if target.exists():
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    os.replace(work, target)


def refuse_partial(directory: str | Path) -> None:
    """Raises UsageError for a model directory that an unfinished run left."""
    if str(directory).rstrip("/").endswith(".partial") or Path(directory, "run.json").exists():
        raise UsageError(f"{directory} is an unfinished checkpoint; finish it with --resume first")
