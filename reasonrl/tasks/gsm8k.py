"""GSM8K (Cobbe et al. 2021): 7,473 training and 1,319 test questions of grade-school mathematics."""

import re
from collections.abc import Iterator

from reasonrl.records import Record

HUB = ("openai/gsm8k", "main")

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


def to_problem(raw: Record) -> Record:
    """A published row, whose `answer` is a worked solution ending in `#### N`, as a problem without an id."""
    reference = _CALCULATOR_MARK.sub("", raw["answer"]).strip()
    answer = reference.rsplit("####", 1)[1].strip().replace(",", "")
    return {"question": raw["question"], "answer": answer, "reference": reference}


def problems(rows: Iterator[Record], split: str) -> Iterator[Record]:
    """Numbered problems from published rows: `gsm8k/train/0`, …"""
    for number, raw in enumerate(rows):
        yield {"id": f"gsm8k/{split}/{number}"} | to_problem(raw)
