"""A task of one's own in a Python file: `--task FILE.py`. docs/tasks.md shows one.

The file may define

    def problems(split): ...      dictionaries with `question` and `answer`, and `id` and `reference` if there are any
    PROMPT = "Q: {question}\\nA:"  how a question is put
    STOP = ["\\nQ:"]               where a completion ends (default: before the next question)
"""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reasonrl.errors import UsageError
from reasonrl.records import Record


@dataclass(frozen=True)
class OwnTask:
    """What the file defines; `prompt` is None where it defines none."""

    problems: Callable[[str], Iterable[Record]]
    prompt: str | None
    stop: tuple[str, ...]


@cache
def load(file: str) -> OwnTask:
    """Runs the file. Raises UsageError, with the line, if it fails or defines nothing of use."""
    if not Path(file).is_file():
        raise UsageError(f"{file}: no such file")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        at = error.__traceback__
        while at.tb_next:
            at = at.tb_next
        line = error.lineno if isinstance(error, SyntaxError) else at.tb_lineno
        raise UsageError(f"{file}:{line}: {type(error).__name__}: {error}") from None
    prompt, stop = getattr(module, "PROMPT", None), getattr(module, "STOP", None)
    if prompt is not None and "{question}" not in prompt:
        raise UsageError(f"{file}: PROMPT has no {{question}} in it")
    if stop is None:
        from reasonrl.tasks.prompts import next_question

        stop = next_question(prompt) if prompt else ()

    def none(split: str) -> Iterable[Record]:
        raise UsageError(f"{file}: defines no function problems(split)")

    return OwnTask(getattr(module, "problems", none), prompt, tuple(stop))
