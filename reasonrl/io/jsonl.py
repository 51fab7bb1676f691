"""JSON Lines in and out. Beside `streams` the only module with file descriptors (`compressed` opens .gz and .zst).

Reading: `-` is stdin, `.gz` and `.zst` are decompressed, every complaint names a file and a line.
Writing: a file appears whole or not at all. Work in progress is `OUT.partial`, always plain text, so that an
interrupted run can be cut back to whole records; compression happens when the file is finished.

Numbers are those of JSON parsers everywhere: an integer beyond 64 bits is read as a float, as jq does.
"""

import codecs
import contextlib
import errno
import fcntl
import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from reasonrl import console
from reasonrl.errors import AlreadyDone, ReasonRLError, RecordError, UsageError
from reasonrl.io import compressed, streams
from reasonrl.io.records import Record

CHUNK = 1 << 20  # bytes asked of the system at a time
PIPE = 1 << 16  # bytes that go to stdout at a time: what a pipe holds
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # what a write says when it cannot


def dumps(record: Any) -> bytes:
    """One JSON value without a newline. Numpy scalars are taken as numbers.

    Raises RecordError for what cannot be written: nested 255 deep, text that is no Unicode.
    """
    try:
        return orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise RecordError(f"cannot be written as JSON ({error})") from None


class Reader:
    """The lines of one input, counted and hashed as they pass.

    `before_wait` is called before each read that may block: a stage flushes its output there, so that a record
    leaves a pipeline's stage as soon as nothing more is waiting to come in. `torn` says, at the end, that the last
    line had no newline.
    """

    stdin_begun = False  # of this process: what has been read once does not come again

    def __init__(self, path: str, before_wait: Callable[[], None] = lambda: None):
        self.path = path
        self.name = "<stdin>" if path == "-" else path
        self.before_wait = before_wait
        self.line_number = 0
        self.torn = False
        self.hashed = True  # a stage that writes no sidecar saves itself the time
        self._hash = hashlib.sha256()
        self._at_end = False

    @property
    def sha256(self) -> str | None:
        """Hash of the (decompressed) text, or None if it was not read to the end."""
        return self._hash.hexdigest() if self.hashed and self._at_end else None

    def __iter__(self) -> Iterator[bytes]:
        Reader.stdin_begun |= self.path == "-"
        rest: list[bytes] = []  # the pieces of a line whose end has not come yet
        with _open_input(self.path) as stream:
            while True:
                self.before_wait()
                chunk = stream.read1(CHUNK)
                if not chunk:
                    break
                if self.hashed:
                    self._hash.update(chunk)
                if b"\n" not in chunk:  # joining the pieces each time would take quadratic time on a huge line
                    rest.append(chunk)
                    continue
                lines = b"".join([*rest, chunk]).split(b"\n")
                rest = [lines.pop()]
                if self.line_number == 0:
                    lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
                for line in lines:
                    self.line_number += 1
                    yield line
            if last := b"".join(rest):
                self.line_number += 1
                self.torn = True
                yield last.removeprefix(codecs.BOM_UTF8) if self.line_number == 1 else last
            self._at_end = True


def _open_input(path: str) -> contextlib.AbstractContextManager[compressed.Readable]:
    if path == "-":
        if sys.stdin is None:
            raise UsageError("stdin is closed; name a file, or pipe records in")
        # Left open when the reader is done with it.
        return contextlib.nullcontext(cast(io.BufferedReader, sys.stdin.buffer))
    try:
        return compressed.unpack(path) if path.endswith(compressed.SUFFIXES) else open(path, "rb")
    except FileNotFoundError:
        partial = Path(f"{path}.partial")
        hint = f" ({partial} is there: its run has not finished)" if partial.exists() else ""
        raise UsageError(f"{path}: no such file{hint}") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a directory; give a JSONL file") from None


class BadLines:
    """What to do with a line that cannot be used: fail with its place, or count it, set it aside and continue.

    Raises UsageError if `rejects` is one of the files in `used`, which it would overwrite.
    """

    def __init__(self, on_error: str = "fail", rejects: str | None = None, used: Iterable[str] = ()):
        if rejects == "-":
            raise UsageError("--rejects -: stdout is for records; name a file, or /dev/stderr")
        own = [path for name in used for path in (name, f"{name}.partial", f"{name}.meta.json")]
        if rejects and os.path.realpath(rejects) in map(os.path.realpath, own):
            raise UsageError(f"--rejects {rejects}: this run reads or writes that file already")
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


def inputs(paths: Sequence[str], before_wait: Callable[[], None] = lambda: None) -> list[Reader]:
    """Readers for a stage's positional arguments; none means stdin, which must then be a pipe or a file."""
    if not paths:
        if not streams.stdin_is_data():
            raise UsageError("no input: name a file, or pipe records in")
        paths = ("-",)
    for path in paths:
        if path != "-" and (os.path.isdir(path) or not os.path.exists(path)):
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
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
    write_text(path, text.decode() + "\n")


def write_text(path: str | Path, text: str) -> None:
    """A whole text file, in place of the old one in a single step."""
    aside = Path(f"{path}.tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


OTHER = "is not one that this run makes; did the input change? --force starts again"


class Sink:
    """Where records go: stdout, or a file by way of `PATH.partial`. A device or a FIFO is written straight away.

    With `resume`, what an earlier run wrote is cut back to whole records. `kept` says how many those are; the
    stage either makes its records again (`replay=True`, the default), and the first `kept` of them are compared
    with those that are there already, or reads `kept_records()` and continues after them.
    """

    def __init__(self, path: str = "-", *, force: bool = False, resume: bool = False, replay: bool = True):
        self.path = "-" if path == "/dev/stdout" else path
        self.is_file = not _is_stream(self.path)
        self.partial = f"{path}.partial"
        self.count = self.kept = self._to_compare = 0
        if self.path == "-":
            if sys.stdout is None:
                raise UsageError("stdout is closed; name a file with --output")
            self._stream = open(sys.stdout.fileno(), "wb", buffering=PIPE, closefd=False)
        elif not self.is_file:
            self._stream = open(path, "ab")
        else:
            check_free(path, force=force, resume=resume)
            self._stream = self._open_partial()
            if resume and not force:
                self.kept = _cut_to_whole_lines(self.partial)
            else:
                self._stream.truncate(0)
            self._to_compare = self.kept if replay else 0
            self.count = 0 if replay else self.kept
            self._earlier = open(self.partial, "rb") if self._to_compare else None

    def _open_partial(self) -> BinaryIO:
        stream = open(self.partial, "ab", buffering=CHUNK)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ReasonRLError(f"{self.partial}: another run is writing it") from None
        return stream

    def kept_records(self) -> Iterator[Record]:
        """The records that an earlier run left, in order."""
        if self.kept:
            yield from map(orjson.loads, open(self.partial, "rb"))

    def keep_first(self, count: int) -> None:
        """Cuts the earlier run's records back further, to the first `count`."""
        self._stream.close()
        with open(self.partial, "rb+") as lines:
            for _ in range(count):
                lines.readline()
            lines.truncate()
        self.kept = self.count = count
        self._stream = self._open_partial()

    def write(self, record: Record) -> None:
        self.write_line(dumps(record))

    def write_line(self, line: bytes) -> None:
        """A record that is already JSON, without its newline."""
        self.count += 1
        if self.count <= self._to_compare:
            assert self._earlier is not None  # it is there where there is something to compare
            if self._earlier.readline() != line + b"\n":
                raise UsageError(f"{self.partial}: record {self.count} {OTHER}")
            return
        self._stream.write(line + b"\n")

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Leaves `.partial` as it is, on disk, for a later `--resume`."""
        self._stream.close()

    def commit(self) -> None:
        """The file is whole: compress it if its name says so, and give it its name."""
        if self.count < self._to_compare:
            raise UsageError(f"{self.partial}: record {self.count + 1} {OTHER}")
        self.close()
        if not self.is_file:
            return
        finished = self.partial
        if self.path.endswith(compressed.SUFFIXES):
            finished = f"{self.partial}.packed"
            compressed.pack(self.partial, finished, named=self.path)
        with open(finished, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(finished, self.path)
        if finished != self.partial:
            os.remove(self.partial)

    def is_untouched(self) -> bool:
        """Whether this run has left nothing worth keeping, and no older file of that name is there."""
        return self.is_file and not (self.count or self.kept or os.path.exists(self.path))


def _is_stream(path: str) -> bool:
    """What has no name to be renamed to. /dev/stderr and /dev/fd/3 have none even where they lead to a file."""
    nameless = path == "-" or path.startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return nameless or (os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)))


class Log:
    """Records appended to a file during a run, each on disk before the next. `keep` cuts it back first."""

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
    """Refuses to write over finished or unfinished work unless told to. Raises UsageError, or AlreadyDone."""
    if not path or path.endswith("/") or os.path.isdir(path):
        raise UsageError(f"--output {path!r}: name a file")
    if (parent := os.path.dirname(path)) and not os.path.isdir(parent):
        raise UsageError(f"{path}: no directory {parent}; make it first")
    if force:
        return
    partial = f"{path}.partial"
    if os.path.exists(path) and not resume:
        raise UsageError(f"{path} exists; --resume keeps it, --force overwrites it")
    if os.path.exists(partial) and not resume:
        raise UsageError(f"{partial} exists; --resume continues from it, --force starts again")
    # Both are there when a run with --force was interrupted: then the unfinished one is what is wanted.
    if os.path.exists(path) and not os.path.exists(partial):
        raise AlreadyDone(f"{path} is complete")


def _cut_to_whole_lines(path: str) -> int:
    """Truncates the file after its last newline. Returns the number of lines left."""
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


def describe_error(error: OSError) -> str:
    """An operating system's refusal in one line."""
    place = error.filename or ("stdout" if error.errno in FULL else None)
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return f"{place}: {reason}" if place else reason
