"""Rewards of your own: a Python function, or a program in any language. A failure is reported, never scored.

`FILE.py:FUNCTION` gets a list of records and gives as many numbers. `cmd:PROGRAM` is a filter: records come in as JSONL
on its stdin, and for each it prints one line, a JSON number or an object with a number in "reward". Both run in a
process of their own, so that a crash or a hang takes nothing else along. Numbers are finite; true and false are 1 and
0.
"""

import importlib.util
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from reasonrl.errors import UsageError
from reasonrl.io import jsonl, streams
from reasonrl.io.records import Record
from reasonrl.rewards.base import Reward, RewardFailed, RewardResult

if TYPE_CHECKING:  # `reasonrl --help` would wait for it
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

GLANCE = 0.2  # seconds between checks of a running program: has it ended, does it print too much


def number(value: Any, index: int) -> float:
    """A reward as a float. Raises RewardFailed for what is no finite number."""
    if isinstance(value, dict):
        value = value.get("reward")
    if type(value) not in (int, float, bool) or not math.isfinite(value):
        raise RewardFailed(f"gave {str(value)[:60]!r}, which is no finite number", index)
    return float(value)


class Program:
    """`cmd:PROGRAM`: a shell command line, started anew for each batch of records and read to its end.

    So a program that buffers its output, as most do when it goes into a pipe, needs no special care, and one line too
    many or too few is noticed before any record of the batch is scored. timeout: seconds without further output.
    """

    def __init__(self, command: str, timeout: float):
        if not command.strip():
            raise UsageError("--reward cmd: names no program; for example 'cmd:./verify --strict'")
        self.command, self.timeout = command, timeout

    def __call__(self, records: Sequence[Record]) -> list[float]:
        """One number per record. Raises RewardFailed."""
        with tempfile.TemporaryFile() as lines:  # a file, not a pipe: neither side can block the other
            lines.writelines(jsonl.dumps(record) + b"\n" for record in records)
            lines.seek(0)
            printed, problem = self._run(lines, len(records))
        answers = printed.split(b"\n")
        if answers[-1] == b"" or problem:  # what a dying program printed last may be torn
            answers.pop()
        first_unanswered = min(len(answers), len(records) - 1)
        if problem:
            raise RewardFailed(problem, first_unanswered)
        if len(answers) != len(records):
            many = f"printed {len(answers)} lines for {len(records)} records"
            raise RewardFailed(f"{many}; it must print one for each, and nothing else", first_unanswered)
        return [self._read(answer, index) for index, answer in enumerate(answers)]

    def _run(self, lines, count: int) -> tuple[bytes, str | None]:
        """What the program printed, and what went wrong."""
        with subprocess.Popen(
            self.command, shell=True, stdin=lines, stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            try:
                printed, until = b"", time.monotonic() + self.timeout
                while True:
                    try:
                        printed, _ = process.communicate(timeout=min(GLANCE, self.timeout))
                        break
                    except subprocess.TimeoutExpired as still:
                        before, printed = len(printed), still.stdout or b""
                    if len(printed) > before:
                        until = time.monotonic() + self.timeout
                    if printed.count(b"\n") > count:
                        return printed, f"printed more than {count} lines for {count} records"
                    if time.monotonic() > until:
                        return printed, f"printed nothing for {self.timeout:g} s; a longer --timeout waits longer"
                code = process.returncode
                how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                return printed, how if code else None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # the shell, and what it started

    @staticmethod
    def _read(answer: bytes, index: int) -> float:
        try:
            return number(orjson.loads(answer), index)
        except orjson.JSONDecodeError:
            shown = answer[:60].decode(errors="replace")
            raise RewardFailed(f'printed {shown!r}; want a number, or an object with a "reward"', index) from None

    def close(self) -> None:
        """Nothing is left running between batches."""


class Function:
    """`FILE.py:FUNCTION`, called on batches of records in a process that stays. timeout: seconds for a batch.

    Where a batch fails, its records are tried one by one, to say which it was.
    """

    def __init__(self, file: str, function: str, timeout: float):
        if not Path(file).is_file():
            raise UsageError(f"--reward {file}:{function}: no file {file}")
        self.file, self.function, self.timeout = file, function, timeout
        self._process: SpawnProcess | None = None
        self._start()

    def __call__(self, records: Sequence[Record]) -> list[float]:
        """One number per record. Raises RewardFailed."""
        try:
            return self._ask(records)
        except RewardFailed as failure:
            if failure.index is not None:
                raise
            for index, record in enumerate(records):
                try:
                    self._ask([record])
                except RewardFailed as alone:
                    raise RewardFailed(str(alone), index) from None
            raise

    def _ask(self, records: Sequence[Record]) -> list[float]:
        if self._process is not None and not self._process.is_alive():
            self.close()  # it died between two batches, which says nothing of this one
        if self._process is None:
            self._start()
        answers = self._exchange(records)
        if len(answers) != len(records):
            raise RewardFailed(f"gave {len(answers)} numbers for {len(records)} records", None)
        return [number(answer, index) for index, answer in enumerate(answers)]

    def _start(self) -> None:
        import multiprocessing  # here, because `reasonrl --help` would wait for it

        spawn = multiprocessing.get_context("spawn")
        self._pipe, far = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(self.file, self.function, far))
        self._process.start()
        far.close()
        self._exchange()

    def _exchange(self, records: Sequence[Record] | None = None) -> list[Any]:
        """What the process answers. Raises RewardFailed, and leaves no process behind, if it crashes or hangs."""
        problem = f"gave nothing for {self.timeout:g} s; a longer --timeout waits longer"
        try:
            if records is not None:
                self._pipe.send(records)
            if self._pipe.poll(self.timeout):
                answers = self._pipe.recv()
                if type(answers) is list:
                    return answers
                raise RewardFailed(answers, None)
        except (EOFError, OSError):  # ConnectionResetError, BrokenPipeError
            assert self._process is not None  # `_start` comes first
            self._process.join()
            code = self._process.exitcode
            assert code is not None  # as it has been joined
            problem = f"was killed by signal {-code}" if code < 0 else f"ended its process with exit code {code}"
        self.close()
        raise RewardFailed(problem, None)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


class ExternalReward(Reward):
    """A Program or a Function as a reward."""

    capacity = 1024

    def __init__(self, spec: str, timeout: float):
        self.verifier: Program | Function
        if spec.startswith("cmd:"):
            self.verifier = Program(spec[4:], timeout)
        else:
            file, _, function = spec.rpartition(":")
            self.verifier = Function(file, function, timeout)

    def prepare(self, record: Record) -> None:
        pass

    def score(self, records: Sequence[Record], prepared: Sequence[None]) -> list[RewardResult]:
        return [RewardResult(value) for value in self.verifier(records)]

    def close(self) -> None:
        self.verifier.close()


def _serve(file: str, name: str, pipe: "Connection") -> None:
    """The process of a Function: answers each list of records with a list, or with what went wrong in one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    streams.silence_stdout()  # what the function prints is no record
    try:
        sys.path.insert(0, str(Path(file).resolve().parent))
        spec = importlib.util.spec_from_file_location(Path(file).stem, Path(file).resolve())
        assert spec is not None and spec.loader is not None, "its name does not end in .py"
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function = getattr(module, name)
        pipe.send([])
    except BaseException as error:
        pipe.send(_in_one_line(error, file))
        return
    while True:
        try:
            records = pipe.recv()
        except EOFError:
            return
        try:
            answers = [value.item() if hasattr(value, "item") else value for value in function(records)]
            pipe.send([value if isinstance(value, int | float) else repr(value) for value in answers])
        except Exception as error:
            pipe.send(_in_one_line(error, file))


def _in_one_line(error: BaseException, file: str) -> str:
    """The exception, and the last line of the user's file that it came through."""
    path = str(Path(file).resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    place = f"{file}:{lines[-1]}: " if lines else ""
    return f"{place}{type(error).__name__}: {' '.join(str(error).split())}"
