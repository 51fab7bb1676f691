"""JSON Lines in and out. The only module that touches file descriptors.

Reading: `-` is stdin, `.gz` and `.zst` are decompressed, every complaint names a file and a line.
Writing: a file appears whole or not at all. Work in progress is `OUT.partial`, always plain text, so that an
interrupted run can be cut back to whole records; compression happens when the file is finished.
"""

import errno
import gzip
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from reasonrl import console
from reasonrl.errors import AlreadyDone, ReasonRLError, RecordError, UsageError

Record = dict[str, Any]

CHUNK = 1 << 20  # bytes asked of the system at a time


def dumps(record: Any) -> bytes:
    """One JSON value without a newline. Numpy scalars are taken as numbers."""
    return orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)


# ---------------------------------------------------------------------------------------------------------------
# Reading


class Reader:
    """The lines of one input, counted and hashed as they pass.

    `before_wait` is called before each read that may block: a stage flushes its output there, so that a record
    leaves a pipeline's stage as soon as nothing more is waiting to come in.
    """

    def __init__(self, path: str, before_wait: Callable[[], None] = lambda: None):
        self.path = path
        self.name = "<stdin>" if path == "-" else path
        self.before_wait = before_wait
        self.line_number = 0
        self._hash = hashlib.sha256()
        self._at_end = False

    @property
    def sha256(self) -> str | None:
        """Hash of the (decompressed) text, or None if it was not read to the end."""
        return self._hash.hexdigest() if self._at_end else None

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        with _open_input(self.path) as stream:
            while True:
                self.before_wait()
                try:
                    chunk = stream.read1(CHUNK)
                except (EOFError, gzip.BadGzipFile) as error:
                    raise ReasonRLError(f"{self.name}: broken gzip file ({error})") from None
                except Exception as error:
                    if type(error).__module__.startswith("zstandard"):
                        raise ReasonRLError(f"{self.name}: broken zstd file ({error})") from None
                    raise
                if not chunk:
                    break
                self._hash.update(chunk)
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    self.line_number += 1
                    yield line
            if rest:
                self.line_number += 1
                yield rest
            self._at_end = True


def _open_input(path: str) -> BinaryIO:
    if path == "-":
        return _Stdin()
    try:
        if path.endswith(".gz"):
            return gzip.open(path, "rb")
        if path.endswith(".zst"):
            import zstandard

            return zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), read_across_frames=True)
        return open(path, "rb")
    except FileNotFoundError:
        partial = Path(f"{path}.partial")
        hint = f" ({partial} is there: its run has not finished)" if partial.exists() else ""
        raise UsageError(f"{path}: no such file{hint}") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a directory; give a JSONL file") from None


class _Stdin:
    """stdin's bytes, left open when the reader is done with them."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read1(self, size: int) -> bytes:
        return sys.stdin.buffer.read1(size)


def stdin_is_data() -> bool:
    """True when stdin is a pipe or a file; False for a terminal, /dev/null, or a closed stdin."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


class BadLines:
    """What to do with a line that cannot be used: fail with its place, or count it, set it aside and go on."""

    def __init__(self, on_error: str = "fail", rejects: str | None = None):
        self.skip = on_error == "skip" or rejects is not None
        self.count = 0
        self._rejects = open(rejects, "wb") if rejects else None

    def handle(self, place: str, line: bytes, error: Exception) -> None:
        if not self.skip:
            raise RecordError(f"{place}: {error}") from None
        self.count += 1
        if self.count == 1:
            console.warn(f"skipping {place}: {error}")
        if self._rejects:
            self._rejects.write(line + b"\n")

    def close(self) -> None:
        if self._rejects:
            self._rejects.close()
        if self.count:
            console.warn(f"skipped {self.count} bad line{'s' if self.count > 1 else ''}")


def each(readers: Iterable[Reader], visit: Callable[[Record, bytes], None], bad: BadLines | None = None) -> int:
    """Calls `visit(record, line)` on every record of the readers, in order. Returns how many there were.

    A line that is no JSON object, and a RecordError raised by `visit`, are handled by `bad` (default: fail).
    """
    bad = bad or BadLines()
    count = 0
    for reader in readers:
        for line in reader:
            try:
                record = orjson.loads(line)
                if type(record) is not dict:
                    raise RecordError("not a JSON object")
                visit(record, line)
                count += 1
            except RecordError as error:
                bad.handle(f"{reader.name}:{reader.line_number}", line, error)
            except orjson.JSONDecodeError as error:
                if line.strip():
                    bad.handle(f"{reader.name}:{reader.line_number}", line, RecordError(f"not JSON ({error})"))
    bad.close()
    return count


def inputs(paths: list[str], before_wait: Callable[[], None] = lambda: None) -> list[Reader]:
    """Readers for a stage's positional arguments; none means stdin, which must then be a pipe or a file."""
    if not paths:
        if not stdin_is_data():
            raise UsageError("no input: name a file, or pipe records in")
        paths = ["-"]
    for path in paths:
        if path != "-" and not os.path.exists(path):
            _open_input(path)  # raises, with its hint
    return [Reader(path, before_wait) for path in paths]


def read_json(path: str | Path) -> Any:
    """A whole JSON file."""
    try:
        return orjson.loads(Path(path).read_bytes())
    except orjson.JSONDecodeError as error:
        raise ReasonRLError(f"{path}: not JSON ({error})") from None


def write_json(path: str | Path, value: Any) -> None:
    """A whole JSON file, indented, in place of the old one in a single step."""
    aside = Path(f"{path}.tmp")
    aside.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n")
    aside.replace(path)


# ---------------------------------------------------------------------------------------------------------------
# Writing


class Sink:
    """Where records go: stdout, or a file by way of `PATH.partial`.

    With `resume`, what an earlier run wrote is cut back to whole records. `kept` says how many those are; the
    stage either makes its records again and has the first `kept` of them dropped (`replay=True`, the default), or
    reads `kept_records()` and goes on behind them.
    """

    def __init__(self, path: str = "-", *, force: bool = False, resume: bool = False, replay: bool = True):
        self.path = path
        self.is_file = not (path == "-" or (os.path.exists(path) and not os.path.isfile(path)))
        self.partial = f"{path}.partial"
        self.count = self.kept = 0
        if not self.is_file:
            self._stream = sys.stdout.buffer if path == "-" else open(path, "wb")
            return
        check_free(path, force=force, resume=resume)
        parent = os.path.dirname(path)
        if parent and not os.path.isdir(parent):
            raise UsageError(f"{path}: no directory {parent}; make it first")
        if resume and os.path.exists(self.partial):
            self.kept = _cut_to_whole_lines(self.partial)
        self._to_drop = self.kept if replay else 0
        self.count = 0 if replay else self.kept
        self._stream = open(self.partial, "ab" if self.kept else "wb", buffering=CHUNK)

    def kept_records(self) -> Iterator[Record]:
        """The records that an earlier run left, in order."""
        if self.kept:
            with open(self.partial, "rb") as lines:
                yield from map(orjson.loads, lines)

    def keep_first(self, count: int) -> None:
        """Cuts the earlier run's records back further, to the first `count`."""
        self._stream.close()
        with open(self.partial, "rb+") as lines:
            for _ in range(count):
                lines.readline()
            lines.truncate()
        self.kept = self.count = count
        self._stream = open(self.partial, "ab", buffering=CHUNK)

    def write(self, record: Record) -> None:
        self.write_line(dumps(record))

    def write_line(self, line: bytes) -> None:
        """A record that is already JSON, without its newline."""
        self.count += 1
        if self.is_file and self.count <= self._to_drop:
            return
        self._stream.write(line + b"\n")

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Leaves `.partial` as it is, on disk, for a later `--resume`."""
        self._stream.flush()
        if self.path != "-":
            self._stream.close()

    def commit(self) -> None:
        """The file is whole: compress it if its name says so, and give it its name."""
        self.close()
        if not self.is_file:
            return
        finished = self.partial
        if self.path.endswith((".gz", ".zst")):
            finished = f"{self.partial}.packed"
            with open(self.partial, "rb") as plain, _open_packed(finished, self.path) as packed:
                shutil.copyfileobj(plain, packed, CHUNK)
        with open(finished, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(finished, self.path)
        if finished != self.partial:
            os.remove(self.partial)


class Log:
    """Records appended to a file while a run goes on, each on disk before the next. `keep` cuts it back first."""

    def __init__(self, path: str | Path, keep: Callable[[Record], bool] = lambda record: True):
        path = Path(path)
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        aside = path.with_name(f"{path.name}.tmp")
        aside.write_bytes(b"".join(line + b"\n" for line in lines if keep(orjson.loads(line))))
        aside.replace(path)
        self._stream = open(path, "ab")

    def write(self, record: Record) -> None:
        self._stream.write(dumps(record) + b"\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def check_free(path: str, *, force: bool, resume: bool) -> None:
    """Refuses to write over finished or unfinished work unless told to."""
    if force:
        return
    partial = f"{path}.partial"
    if os.path.exists(path):
        if resume:
            raise AlreadyDone(f"{path} is complete")
        raise UsageError(f"{path} exists; --resume keeps it, --force overwrites it")
    if os.path.exists(partial) and not resume:
        raise UsageError(f"{partial} exists; --resume goes on from it, --force starts again")


def _cut_to_whole_lines(path: str) -> int:
    """Truncates the file behind its last newline. Returns the number of lines left."""
    count = end = 0
    with open(path, "rb+") as stream:
        position = 0
        while chunk := stream.read(CHUNK):
            newline = chunk.rfind(b"\n")
            if newline >= 0:
                end = position + newline + 1
                count += chunk.count(b"\n")
            position += len(chunk)
        stream.truncate(end)
    return count


@contextmanager
def _open_packed(path: str, named: str) -> Iterator[BinaryIO]:
    with open(path, "wb") as stream:
        if named.endswith(".gz"):
            # Neither name nor time in the header: the same records give the same bytes.
            packer = gzip.GzipFile(filename="", fileobj=stream, mode="wb", mtime=0)
        else:
            import zstandard

            packer = zstandard.ZstdCompressor().stream_writer(stream, closefd=False)
        with packer:
            yield packer


# ---------------------------------------------------------------------------------------------------------------
# Endings


def silence_stdout() -> None:
    """Nobody reads our stdout any more: point it at /dev/null, so that nothing complains at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)


def finish_stdout() -> None:
    """Flushes stdout while an error can still be reported (a full disk shows up here)."""
    sys.stdout.flush()


def describe(error: OSError) -> str:
    """An operating system's refusal in one line."""
    place = error.filename or ("stdout" if error.errno in (errno.ENOSPC, errno.EIO) else None)
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return f"{place}: {reason}" if place else reason
