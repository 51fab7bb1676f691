"""A task of the user's own in a Python file: `--task FILE.py`. docs/tasks.md shows one.

The file may define

    def problems(split): ...      dictionaries with `question` and `answer`, and `id` and `reference` if there are any
    PROMPT = "Q: {question}\\nA:"  how a question is put
    STOP = ["\\nQ:"]               where a completion ends, a text or several (default: before the next question)
    def extract(completion): ...  the final answer in a completion, None if there is none to read
"""

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.io.records import Record
from reasonrl.prompts import PromptForm, next_question


@dataclass(frozen=True)
class UserTask:
    """What the file defines; `prompt` and `extract` are None where it defines none."""

    problems: Callable[[str], Iterable[Record]]
    prompt: str | None
    stop: tuple[str, ...]
    extract: Callable[[str], str | None] | None


@cache
def load(file: str) -> UserTask:
    """Runs the file. Raises UsageError, with the line, if it fails or defines nothing of use."""
    if not Path(file).is_file():
        raise UsageError(f"{file}: no such file")
    spec = importlib.util.spec_from_file_location(f"reasonrl_task_{Path(file).stem}", file)
    assert spec is not None and spec.loader is not None  # as every name in .py gets
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # which dataclasses ask for
    sys.path.append(str(Path(file).resolve().parent))  # it may import what lies beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(_in_one_line(file, error)) from None
    prompt, stop = getattr(module, "PROMPT", None), getattr(module, "STOP", None)
    if prompt is not None and "{question}" not in prompt:
        raise UsageError(f"{file}: PROMPT has no {{question}} in it")
    if isinstance(stop, str):
        stop = (stop,)
    if stop is None:
        stop = next_question(prompt) if prompt else ()

    def none(split: str) -> Iterable[Record]:
        raise UsageError(f"{file}: defines no function problems(split)")

    extract = getattr(module, "extract", None)
    return UserTask(getattr(module, "problems", none), prompt, tuple(stop), extract and _checked(file, extract))


def task_form(task: str | None) -> PromptForm | None:
    """The form in which a task in a Python file puts its questions; None where there is none."""
    if task is None or not task.endswith(".py") or (user_task := load(task)).prompt is None:
        return None
    return PromptForm(Path(task).name, user_task.prompt, user_task.stop)


def answer_reader(task: str | None) -> Callable[[str], str | None] | None:
    """How a task reads the final answer of a completion; None where it reads numbers (see `grading.answers`)."""
    return load(task).extract if task is not None and task.endswith(".py") else None


def _checked(file: str, extract: Callable[[str], Any]) -> Callable[[str], str | None]:
    """`extract` with its result as text. Raises ReasonRLError, not RecordError, where it fails: a completion that the
    function cannot read is no bad record to be skipped, or accuracy would be that of the readable ones."""

    def checked(completion: str) -> str | None:
        try:
            answer = extract(completion)
        except Exception as error:
            raise ReasonRLError(f"{_in_one_line(file, error)}, in extract({completion[-60:]!r})") from None
        if type(answer) not in (str, int, float, type(None)):
            raise ReasonRLError(f"{file}: extract gave {type(answer).__name__}; want a string, a number or None")
        return None if answer is None else str(answer)

    return checked


def _in_one_line(file: str, error: Exception) -> str:
    """An exception of the file's code in one line, with the innermost line of the file that it came through."""
    if isinstance(error, SyntaxError):
        line = error.lineno
    else:
        frames = reversed(traceback.extract_tb(error.__traceback__))
        line = next((frame.lineno for frame in frames if frame.filename == os.path.abspath(file)), 1)
    return f"{file}:{line}: {type(error).__name__}: {' '.join(str(error).split())}"
