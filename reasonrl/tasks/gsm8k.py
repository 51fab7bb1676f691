"""GSM8K (Cobbe et al. 2021): 7,473 training and 1,319 test questions of grade-school mathematics."""

import re
from collections.abc import Iterable

from reasonrl.errors import RecordError
from reasonrl.io.records import Record, need_text

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


def to_problem(raw: Record) -> Record:
    """A published row, whose `answer` is a worked solution ending in `#### N`, as a problem without an id.

    Raises RecordError if it is none.
    """
    need_text(raw, "question", "answer")
    reference = _CALCULATOR_MARK.sub("", raw["answer"]).strip()
    _, mark, answer = reference.rpartition("####")
    if not mark:
        raise RecordError('field "answer" is no worked solution: there is no "####" in it')
    return {"question": raw["question"], "answer": answer.strip().replace(",", ""), "reference": reference}


def from_hub(split: str) -> Iterable[Record]:
    """The rows of a split."""
    import datasets

    return datasets.load_dataset("openai/gsm8k", "main", split=split)
