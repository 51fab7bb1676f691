"""What can go wrong, sorted by the exit code it earns. `cli` alone turns these into exit codes."""


class ReasonRLError(Exception):
    """The work failed: exit code 1. The message is one line and says what to try."""

    exit_code = 1


class UsageError(ReasonRLError):
    """The command line asks for something that cannot be: exit code 2."""

    exit_code = 2


class RecordError(ReasonRLError):
    """One record is not what the stage needs. `jsonl` adds the place: `<stdin>:17: no field "completion"`."""


class TooLong(RecordError):
    """A record has more tokens than the model reads at a time."""


class AlreadyDone(ReasonRLError):
    """`--resume` found the output complete: nothing to do, exit code 0."""

    exit_code = 0
