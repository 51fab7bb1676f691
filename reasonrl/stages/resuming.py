"""What an interrupted run of `sample` or `rcrl` has left."""

from reasonrl.errors import UsageError
from reasonrl.io import provenance
from reasonrl.io.records import Record


def whole_problems(out: provenance.Output, problems: list[Record], k: int) -> int:
    """How many problems an interrupted run finished, k records each. Cuts the file back to them. Raises UsageError if
    what is there is not of these problems: ids alone may be numbers of lines, which fit any file."""
    done = held = 0
    for record in out.kept_records():
        fits = done < len(problems) and all(record.get(name) == problems[done][name] for name in ("id", "question"))
        if not fits or record.get("k") != held:
            raise UsageError(
                f"{out.partial} does not fit these problems (at id {record.get('id')!r}); --force starts again"
            )
        held += 1
        if held == k:
            done, held = done + 1, 0
    if out.kept > done * k:
        out.keep_first(done * k)
    return done
