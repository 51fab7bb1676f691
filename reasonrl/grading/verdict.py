"""Whether the final answer of a completion is the right one."""

from collections.abc import Callable
from typing import NamedTuple

from reasonrl.errors import RecordError
from reasonrl.grading import answers
from reasonrl.io.records import Record


class Verdict(NamedTuple):
    """How a completion's final answer compares with the problem's, under both readings."""

    strict: bool
    flexible: bool
    extracted_strict: str | None
    extracted_flexible: str | None

    def fields(self, flexible: bool) -> Record:
        """What a scored record says of it; `correct` and `extracted` follow one of the two readings."""
        return {
            "correct": self.flexible if flexible else self.strict,
            "correct_strict": self.strict,
            "correct_flexible": self.flexible,
            "extracted": self.extracted_flexible if flexible else self.extracted_strict,
        }


def grade(completion: str, answer: str, read: Callable[[str], str | None] | None = None) -> Verdict:
    """Reads the completion strictly and flexibly (see `grading.answers`) and compares with `answer`.

    read: a task's own reader, in place of both. What it finds, and `answer`, need be no numbers then: they are equal
    where they are the same text, or numbers of the same value. Raises RecordError if `answer` itself is not one
    number and there is no `read`.
    """
    if read:
        extracted = read(completion)
        extracted = None if extracted is None else answers.spelled(extracted)
        right = extracted is not None and extracted == answers.spelled(answer)
        return Verdict(right, right, extracted, extracted)
    truth = answers.canonical(answer)
    if truth is None:
        raise RecordError(
            f'field "answer" is not one number: {answer!r} (a --task FILE.py may read other answers: docs/tasks.md)'
        )
    strict = answers.extract(completion)
    flexible = strict if strict is not None else answers.extract(completion, flexible=True)
    return Verdict(strict == truth, flexible == truth, strict, flexible)
