"""What a person reads, all of it on stderr. The only module that knows rich."""

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager, suppress

_stage = "reasonrl"
_quiet = False


def set_up(stage: str, quiet: bool) -> None:
    """Names the stage that messages come from; `quiet` leaves only warnings and errors."""
    global _stage, _quiet
    _stage, _quiet = f"reasonrl {stage}" if stage else "reasonrl", quiet


def log(message: str) -> None:
    """One line of information."""
    if not _quiet:
        _line(message)


def warn(message: str) -> None:
    """One line that is printed even under --quiet."""
    _line(f"warning: {message}")


def error(message: str) -> None:
    """The one line that an error is."""
    _line(message)


def _line(message: str) -> None:
    # A message is one line whatever a file name or a field holds; and a run does not fail because stderr is closed.
    with suppress(OSError):
        print(f"{_stage}: {message}".replace("\n", " "), file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table for the eye; the numbers themselves go to stdout as JSON."""
    if _quiet:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        drawn.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        drawn.add_row(*map(Text, row))  # a label may look like markup
    with suppress(OSError):
        Console(stderr=True).print(drawn)


def lines(rows: Sequence[tuple[Sequence[str], str]]) -> None:
    """Columns of numbers, and after them text of any length."""
    if _quiet:
        return
    widths = [max(map(len, column)) for column in zip(*(numbers for numbers, _ in rows), strict=True)]
    with suppress(OSError):
        for numbers, text in rows:
            cells = (f"{number:>{width}}" for number, width in zip(numbers, widths, strict=True))
            print("  ".join([*cells, text]), file=sys.stderr)


@contextmanager
def progress(description: str, total: float | None = None):
    """Yields `advance(done, note)`: a bar when stderr is a terminal, nothing at all otherwise."""
    if _quiet or not sys.stderr.isatty():
        yield lambda done, note="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(description, total=total, note="")
        yield lambda done, note="": bar.update(task, completed=done, note=note)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self):
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start
