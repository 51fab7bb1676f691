r"""The heuristic dense reward of the paper: 1 for a right final answer, and credit for steps on the way to it.

The *results* of a step are the numbers that stand right of its equals signs (`3 * 4 = 12`, `= $1,200`), in canonical
spelling; a number that an operation follows is none (the first 12 of `3 * 4 = 12 + 5 = 17`). The reference's
*intermediate* results are the different results of all its steps, without the final answer. A solution earns CREDIT
divided by their number for each of them that one of its steps results in: once, and where that step stands. The right
final answer earns 1, at the last step. docs/dense.md shows it on examples and says how it fails.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from reasonrl.errors import RecordError
from reasonrl.grading import answers
from reasonrl.grading.steps import steps
from reasonrl.io.records import Record
from reasonrl.rewards.base import Reward, RewardResult, need_answer

CREDIT = 0.5
"""For all intermediate results together. Less than 1, so that no wrong solution earns what a right one does."""

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
_NUMBER = r"[-−]?(?>(?:[0-9][0-9,]*)?\.?[0-9]+)"
_RESULT = re.compile(rf"=\s{{0,4}}[$€£¥]?\s?({_NUMBER})(?!\s{{0,4}}[-−+*/×÷x^]\s{{0,4}}[$€£¥(]?[0-9.])")


def step_rewards(completion: str, correct: bool, reference: str, answer: str) -> list[float]:
    """What each step of `completion` earns; the sum is the dense reward, from 0 to 1 + CREDIT."""
    intermediates = intermediate(reference, answer)
    share = CREDIT / len(intermediates) if intermediates else 0.0
    earned: list[float] = []
    seen: set[str] = set()
    for step in steps(completion):
        new = (intermediates & results(step)) - seen
        seen |= new
        earned.append(share * len(new))
    if correct and earned:
        earned[-1] += 1.0
    return earned


@lru_cache(maxsize=1 << 10)  # the samples of a question come together
def intermediate(reference: str, answer: str) -> frozenset[str]:
    """The different results of the reference's steps, without the final answer, in canonical spelling."""
    return frozenset().union(*map(results, steps(reference))) - {answers.canonical(answer)}


def results(step: str) -> set[str]:
    """The numbers right of a step's equals signs, in canonical spelling. GSM8K's calculator marks are overlooked."""
    numbers = _RESULT.findall(_CALCULATOR_MARK.sub("", step))
    return {value for text in numbers if (value := answers.canonical(text)) is not None}


class DenseReward(Reward):
    """`step_rewards` as a reward."""

    def prepare(self, record: Record) -> list[float]:
        need_answer(record, "dense")
        return step_rewards(record["completion"], record["correct"], reference_of(record), record["answer"])

    def score(self, records: Sequence[Record], prepared: Sequence[list[float]]) -> list[RewardResult]:
        return [RewardResult(sum(earned), step_rewards=earned) for earned in prepared]


def reference_of(record: Record) -> str:
    """The record's worked solution. Raises RecordError if it has none."""
    if type(record.get("reference")) is not str:
        raise RecordError('no text in field "reference": the dense reward needs a worked solution; use --reward exact')
    return record["reference"]
