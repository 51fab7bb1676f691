"""Checkpoints: a directory that plain transformers can load, plus `reasonrl.json`, written last.

A directory without that marker is no checkpoint: an interrupted run leaves `OUT.partial`. Never imports torch.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from reasonrl import jsonl, provenance
from reasonrl.errors import AlreadyDone, UsageError
from reasonrl.tasks.prompts import PromptForm

MARKER = "reasonrl.json"
STATE = "state"  # what --resume needs; removed when the checkpoint is complete
METRICS = "metrics.jsonl"


def remembered(directory: str | Path) -> dict[str, Any]:
    """What the checkpoint's marker says; {} for a model that reasonrl did not make."""
    marker = Path(directory, MARKER)
    return jsonl.read_json(marker) if marker.exists() else {}


def prompt_form(directory: str | Path) -> PromptForm | None:
    saved = remembered(directory).get("prompt")
    return PromptForm.from_json(saved) if saved else None


class Checkpoint:
    """A checkpoint in the making: `partial` holds the work, `finish` puts the marker in and gives it its name.

    Of several processes only the first (`main`) looks at what is there, clears it away and makes the directory.
    """

    def __init__(self, output: str, *, force: bool, resume: bool, main: bool = True):
        self.path = Path(output)
        self.partial = Path(f"{output.rstrip('/')}.partial")
        if resume and not force and (self.path / MARKER).exists():
            provenance.check_same_run(remembered(self.path), output)
            raise AlreadyDone(f"{output} is complete")
        if main:
            self._make_room(output, force, resume)

    def _make_room(self, output: str, force: bool, resume: bool) -> None:
        if self.path.exists() and not force and (any(self.path.iterdir()) if self.path.is_dir() else True):
            raise UsageError(f"{output} exists; --resume keeps a finished checkpoint, --force overwrites it")
        if self.partial.exists():
            if force or not (self.partial / "run.json").exists():
                shutil.rmtree(self.partial)
            elif not resume:
                raise UsageError(f"{self.partial} exists; --resume goes on from it, --force starts again")
            else:
                provenance.check_same_run(jsonl.read_json(self.partial / "run.json"), str(self.partial))
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{output}: cannot make the directory ({error.strerror})") from None
        jsonl.write_json(self.partial / "run.json", provenance.describe())

    @property
    def state(self) -> Path:
        return self.partial / STATE

    @property
    def metrics(self) -> Path:
        return self.partial / METRICS

    def finish(self, about: dict[str, Any]) -> None:
        """Writes the marker and renames. `about` is added to arguments, versions and git state."""
        shutil.rmtree(self.state, ignore_errors=True)
        (self.partial / "run.json").unlink()
        jsonl.write_json(self.partial / MARKER, provenance.describe() | about)
        if self.path.exists():
            shutil.rmtree(self.path) if self.path.is_dir() else self.path.unlink()
        os.replace(self.partial, self.path)


def refuse_partial(directory: str | Path) -> None:
    """Raises UsageError for a model directory that an unfinished run left."""
    if str(directory).rstrip("/").endswith(".partial") or Path(directory, "run.json").exists():
        raise UsageError(f"{directory} is an unfinished checkpoint; finish it with --resume first")
