"""stdin, stdout and stderr as the shell gives them to us: pipes that may be idle, closed, or without a reader."""

import contextlib
import os
import select
import stat
import sys
from collections.abc import Iterator


def stdin_is_data() -> bool:
    """True when stdin is a pipe or a file; False for a terminal, /dev/null, or a closed stdin."""
    try:
        return stat.S_IFMT(os.fstat(0).st_mode) in (stat.S_IFIFO, stat.S_IFREG, stat.S_IFSOCK)
    except OSError:
        return False


def stdin_is_idle(seconds: float = 0.05) -> bool:
    """Whether nothing comes in for a moment: the writer is busy, or waits for us."""
    return not select.select([sys.stdin.buffer], [], [], seconds)[0]


def secure_standard_streams() -> None:
    """Opens /dev/null for a closed stdin, stdout or stderr, or else the next file would get its number and its text."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")


def has_no_reader() -> bool:
    """Whether stdout or stderr is a pipe whose reader has gone."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def silence_stdout() -> None:
    """Nobody reads our stdout any more: point it at /dev/null, so that nothing complains at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """What others print meanwhile, and the processes they start, goes to stderr: stdout is for records."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def finish_stdout() -> None:
    """Flushes stdout while an error can still be reported (a full disk shows up here)."""
    if sys.stdout is not None:
        sys.stdout.flush()
