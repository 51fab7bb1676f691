"""Where an output came from: the sidecar `OUT.meta.json`, and the check that a resumed run is the same run."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import reasonrl
from reasonrl import console
from reasonrl.errors import AlreadyDone, UsageError
from reasonrl.io import jsonl, streams
from reasonrl.settings.declare import declared
from reasonrl.settings.shared import OutputSettings

PACKAGES = ("torch", "transformers", "accelerate", "peft", "vllm", "numpy")
WEIGHTS = (".safetensors", ".bin", ".gguf")
BESIDE = ("config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
WHOLE_HASH_LIMIT = 4 << 30  # bytes; reading more takes longer than a check is worth


def _plain(value: Any) -> Any:
    """What JSON can hold: names of files that are no UTF-8 with backslashes."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _version(package: str) -> str:
    from importlib import metadata  # slow to import, and `--help` does without

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # the CPU build of vllm goes by another name
        return str(getattr(sys.modules[package], "__version__", None))


@cache
def _git_state() -> dict[str, Any] | None:
    """Commit of the working directory's repository and whether it has changes; None outside one."""
    try:
        ask = lambda *words: subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def hash_files(path: str | Path) -> str:
    """One hash for a file, or for the files of a directory that make a model: weights, configuration, tokenizer. What a
    run keeps beside them does not count. Beyond 4 GiB by name, size and time of change only."""
    path = Path(path)
    is_part = lambda file: file.suffix in WEIGHTS or file.name in BESIDE
    files = [path] if path.is_file() else sorted(filter(is_part, path.iterdir()))
    by_content = sum(file.stat().st_size for file in files) <= WHOLE_HASH_LIMIT
    digest = hashlib.sha256()
    for file in files:
        about = file.stat()
        digest.update(f"{file.name}:{about.st_size}\n".encode())
        if not by_content:
            digest.update(f"{about.st_mtime_ns}\n".encode())
            continue
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


# What settings of version 0.1 are called now.
RENAMED = {"clip": "max_grad_norm", "set_": "labels"}


class Run:
    """One run of a stage: its settings, and what it has read that they do not name."""

    def __init__(self, settings: OutputSettings):
        self.settings = settings
        self.read: dict[str, str] = {}  # what was read under no name of the settings → its hash

    def has_read(self, readers: list[jsonl.Reader]) -> None:
        """Called by a stage that keeps state which depends on all of its input, once it has that: of stdin, and of a
        data set found by --path or $REASONRL_DATA, the settings name no file that could be hashed again."""
        named = self._named()
        self.read = {reader.name: reader.sha256 for reader in readers if reader.sha256 and reader.name not in named}

    def _named(self) -> set[str]:
        """The files and directories that the settings name, and what may be a hub id."""
        reads = [name for name, one in declared(type(self.settings)).items() if one.about.role == "reads"]
        values = (getattr(self.settings, name) for name in reads)
        return {path for value in values if value for path in (value if isinstance(value, tuple) else (value,))}

    def arguments(self) -> dict[str, Any]:
        """Every setting by name, as JSON has it."""
        return {name: _plain(value) for name, value in self.settings.values().items()}

    def describe(self) -> dict[str, Any]:
        """Stage, settings and where they came from, versions, machine and git state of this process."""
        loaded = [name for name in PACKAGES if name in sys.modules]
        return {
            "stage": self.settings.STAGE,
            "arguments": self.arguments(),
            "origins": {name: _plain(origin) for name, origin in self.settings.origins.items()},
            "argv": _plain(sys.argv[1:]),
            "version": reasonrl.__version__,
            "packages": {name: _version(name) for name in loaded},
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "git": _git_state(),
        }

    def sources(self, described: dict[str, Any]) -> dict[str, str]:
        """The hash of each file and model directory that the settings name, and of what else was read. A bundled model
        and one of a hub have none: their names say which they are. What the earlier run that this one continues from
        noted, as `described`, stays: the stage may yet refuse what it is given now. Python files are left out: to mend
        one and to continue is what many a run is resumed for."""
        on_disk = lambda path: os.path.isdir(path) or (os.path.isfile(path) and not path.endswith(".py"))
        now = {path: hash_files(path) for path in sorted(filter(on_disk, self._named()))} | self.read
        return now | described.get("sources", {})

    def check_same(self, described: dict[str, Any] | None, where: str, *, going_on: bool = False) -> None:
        """Raises UsageError when an earlier run had other settings than this one, or, `going_on` from what it left,
        when what it read has changed since. What is finished stays as it is, whatever became of its inputs."""
        if not described:
            return
        known = declared(type(self.settings))
        now = self.arguments()
        before = {RENAMED.get(name, name): value for name, value in described.get("arguments", {}).items()}
        if "origins" not in described:  # of version 0.1, which noted null for what a preset or a default gave
            before = now | {name: value for name, value in before.items() if value not in (None, "auto")}
        manner = {name for name, one in known.items() if one.about.role == "manner"}
        names = sorted(name for name in {*before, *now} - manner if before.get(name) != now.get(name))
        if described.get("stage") != self.settings.STAGE or names:
            what = ", ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names)
            raise UsageError(
                f"{where} was made by another command ({what or described.get('stage')}); --force starts again"
            )
        for path, digest in described.get("sources", {}).items() if going_on else ():
            if path in self._named():  # the stage itself says it best where one is gone
                digest_now = hash_files(path) if os.path.exists(path) else digest
            else:
                digest_now = self.read.get(path, digest)  # nothing, as long as nothing has been read
            if digest_now != digest:
                raise UsageError(f"{where}: did the input change? {path} is not what it was then; --force starts again")

    def check_stdin(self, path: str) -> None:
        """Raises UsageError where stdin is not what a finished file was made from. What wrote to it may have failed
        then, which only the shell can see, and have been mended since."""
        inputs = jsonl.read_json(sidecar_of(path)).get("inputs", []) if sidecar_of(path).exists() else []
        then = next((one["sha256"] for one in inputs if one["path"] == "<stdin>"), None)
        now = self.read.get("<stdin>")
        if now is None and not jsonl.Reader.stdin_begun and streams.stdin_is_data():
            reader = jsonl.Reader("-")
            for _ in reader:
                pass
            now = reader.sha256
        if then and now and then != now:
            raise UsageError(
                f"{path} was made from other lines of stdin than these (did their writer fail then?); "
                "--force starts again"
            )


def sidecar_of(path: str) -> Path:
    return Path(f"{path}.meta.json")


class Output(jsonl.Sink):
    """A Sink whose file has a sidecar. Fill `counts`, `inputs` and `extra`; they are written when the run ends."""

    def __init__(self, run: Run, path: str, *, replay: bool = True):
        force, resume = run.settings.force, run.settings.resume
        self.run = run
        going_on = os.path.exists(f"{path}.partial")
        before: dict[str, Any] = {}
        if resume and not force and (going_on or os.path.exists(path)) and sidecar_of(path).exists():
            before = jsonl.read_json(sidecar_of(path))
            run.check_same(before, path, going_on=going_on)
        try:
            super().__init__(path, force=force, resume=resume, replay=replay)
        except AlreadyDone:
            run.check_stdin(path)
            raise
        # A stage that makes its records again sees by them whether its inputs are the same, without reading them twice.
        self.sources = {} if replay or not self.is_file else run.sources(before)
        self.inputs: list[jsonl.Reader] = []
        self.counts: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
        self._watch = console.Stopwatch()
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self.write_sidecar(finished=False)

    def reads(self, readers: list[jsonl.Reader]) -> None:
        """Notes the inputs for the sidecar; before each wait for more of them, what is written goes out."""
        self.inputs = readers
        for reader in readers:
            reader.before_wait = self.flush
            reader.hashed = self.is_file

    def write_sidecar(self, finished: bool) -> None:
        if not self.is_file:
            return
        about = self.run.describe() | {
            "inputs": [
                {"path": _plain(reader.name), "sha256": reader.sha256, "lines": reader.line_number}
                for reader in self.inputs
            ],
            "counts": {"records": self.count} | self.counts,
            "started": self._started,
            "seconds": round(self._watch.seconds, 3),
            "finished": finished,
        }
        if self.sources:
            about["sources"] = self.sources
        jsonl.write_json(sidecar_of(self.path), about | self.extra)


@contextmanager
def open_output(run: Run, path: str | None = None, *, replay: bool = True) -> Iterator[Output]:
    """Yields an Output at `path` (default: that of the settings). Gives it its name if the block succeeds, keeps
    `.partial` for `--resume` if it does not.

    The sidecar says "finished" just before the file gets its name: a crash in between leaves a `.partial`, never a
    whole file that is called unfinished. A run that fails before its first record leaves nothing.
    """
    path = run.settings.output if path is None else path
    out = Output(run, path, replay=replay)
    try:
        yield out
        out.flush()
        out.write_sidecar(finished=True)
        out.commit()
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in jsonl.FULL and not error.filename and out.path != "-":
            error.filename = path
        with suppress(
            OSError, ValueError
        ):  # the disk may be what failed, or the file closed: the first error is reported
            out.close()
        with suppress(OSError):
            if out.is_untouched():
                os.remove(out.partial)
                os.remove(sidecar_of(path))
            else:
                out.write_sidecar(finished=False)
        raise


def refuse_unfinished(paths: Sequence[str]) -> None:
    """Raises UsageError for training data that is not all there: a `.partial`, or a sidecar that says unfinished."""
    for path in paths:
        if path.endswith(".partial"):
            raise UsageError(f"{path} is work in progress; finish it with --resume and pass the finished file")
        if path != "-" and sidecar_of(path).exists() and not jsonl.read_json(sidecar_of(path)).get("finished"):
            raise UsageError(f"{path}: its sidecar says the run that writes it has not finished; --resume that run")
