"""The frame of a stage that trains: what it checks before anything heavy is imported, and what it leaves at the end."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from reasonrl import console
from reasonrl.errors import AlreadyDone, ReasonRLError, RecordError, UsageError
from reasonrl.io import jsonl, provenance
from reasonrl.io.records import Record
from reasonrl.models.checkpoint import Checkpoint, read_marker
from reasonrl.settings import OrmSettings, PpoSettings, RcrlSettings, SftSettings
from reasonrl.settings.shared import ProblemSettings
from reasonrl.tasks import source

if TYPE_CHECKING:
    from reasonrl.models.language_model import LanguageModel

PlacedRecord = tuple[Record, str]
"""A record, and the place that it came from."""


class Frame:
    """One run of a trainer: `checkpoint` is the one to be, `run` its provenance.

    files: what it reads. task: another source of problems. Raises UsageError for what is not whole or would be
    overwritten; where --resume finds the checkpoint finished, its path is printed once more, and AlreadyDone raised.
    """

    def __init__(
        self,
        settings: SftSettings | OrmSettings | PpoSettings | RcrlSettings,
        files: Sequence[str],
        task: str | None = None,
    ):
        provenance.refuse_unfinished(files)
        if processes() > 1 and ("-" in files or not (files or task)):
            what = "give files" if task is None and settings.STAGE in ("sft", "orm") else "give --task or files"
            raise UsageError(f"under `accelerate launch` {what}: the processes would share stdin")
        self.settings, self.run = settings, provenance.Run(settings)
        # `accelerate launch` numbers its processes in the environment; reading that here keeps torch out of the checks.
        self.is_main = int(os.environ.get("RANK", 0)) == 0
        if not self.is_main:
            console.set_up(settings.STAGE, quiet=True)
        self.readers: list[jsonl.Reader] = []
        if not settings.output:
            raise UsageError("name the checkpoint's directory with --output")
        try:
            self.checkpoint = Checkpoint(self.run, main=self.is_main)
        except AlreadyDone:
            self.print_path()
            raise

    def read_records(self, files: Sequence[str], limit: int | None) -> list[PlacedRecord]:
        """Raises ReasonRLError if there are none; warns about test problems."""
        rows, self.readers = read_records(files)
        self.run.has_read(self.readers)
        return rows[:limit]

    def read_problems(self) -> list[Record]:
        assert isinstance(self.settings, ProblemSettings)  # ppo's or rcrl's
        problems, self.readers = source.problems(self.settings)
        self.run.has_read(self.readers)
        return problems

    def load_language_model(self, name: str) -> "LanguageModel":
        """The weights that will be trained."""
        from reasonrl.models.language_model import load_language_model

        settings = self.settings
        return load_language_model(
            name, device=settings.weights_device, dtype=settings.weights_dtype, attn=settings.attn
        )

    def about(self, base: Any, **more: Any) -> dict[str, Any]:
        """What the checkpoint's marker says of the run. base: the model that training starts from."""
        return {
            "base": {"name": base.name, "directory": base.directory},
            "preset": self.settings.preset,
            "inputs": [
                {"path": reader.name, "sha256": reader.sha256, "lines": reader.line_number} for reader in self.readers
            ],
        } | more

    def announce(self, what: str) -> None:
        """One line on stderr: what is trained on, and the main settings."""
        settings = self.settings
        batches = "" if isinstance(settings, PpoSettings) else f", batches of {settings.batch_size}"
        start = f"{what}, " if what else ""
        console.log(f"{start}{settings.epochs:g} epochs{batches}, learning rate {settings.lr:g} ({settings.preset})")

    def print_path(self) -> None:
        """The checkpoint's path, which is all that a trainer writes to stdout."""
        if self.is_main:
            print(self.settings.output)


def processes() -> int:
    """How many of this stage `accelerate launch` has started."""
    return int(os.environ.get("WORLD_SIZE", 1))


def located(make: Callable[..., Any], rows: Sequence[PlacedRecord], *more: Any) -> list[Any]:
    """`make(record, …)` of each row; an error of it says which line the record came from."""
    results = []
    for record, place in rows:
        try:
            results.append(make(record, *more))
        except RecordError as error:
            raise RecordError(f"{place}: {error}") from None
    return results


def refuse_conditional(model: str, flag: str, instead: str) -> None:
    """Raises UsageError for a policy that was trained to read labels, where it would be used without."""
    if read_marker(model).get("labels"):
        raise UsageError(f"{flag} {model} reads a label before each step (`reasonrl rcrl` made it): {instead}")


def read_records(files: Sequence[str]) -> tuple[list[PlacedRecord], list[jsonl.Reader]]:
    """Records with their places. Raises ReasonRLError if there are none; warns about test problems."""
    rows: list[PlacedRecord] = []
    readers = jsonl.inputs(files)
    for reader in readers:

        def visit(record: Record, _: bytes, reader: jsonl.Reader = reader) -> None:
            rows.append((record, f"{reader.name}:{reader.line_number}"))

        jsonl.each([reader], visit)
        if reader.torn:
            place = f"{reader.name}:{reader.line_number}"
            raise ReasonRLError(f"{place}: the last line has no newline: was its writer cut off?")
    if not rows:
        raise ReasonRLError("nothing to train on: the input is empty (did the stage before this one fail?)")
    tested = sum("/test/" in str(record.get("id", "")) for record, _ in rows)
    if tested:
        console.warn(f"{tested} of {len(rows)} records come from a test split")
    return rows, readers
