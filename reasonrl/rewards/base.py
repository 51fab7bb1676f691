"""What every reward is, and what it gives.

Each has two halves. `prepare` takes what it needs from one record, and raises RecordError where that is missing.
`score` turns records so prepared into results; a reward that does better on many at a time says how many in `capacity`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from reasonrl.errors import ReasonRLError, RecordError
from reasonrl.io.records import Record


class RewardResult(NamedTuple):
    """What a reward gives a sample; `step_rewards` sum to it, `step_values` are one probability per step."""

    reward: float
    step_rewards: list[float] | None = None
    step_values: list[float] | None = None


class RewardFailed(ReasonRLError):
    """A reward failed at the record `index` of those that it was given; None: at no single one of them."""

    def __init__(self, message: str, index: int | None):
        super().__init__(message)
        self.index = index


class Reward:
    """What every reward offers; the defaults are those of a reward that needs no more than a record.

    capacity: the sum of `size` over records that fills a call of `score`; None where one record is as good as many.
    """

    capacity: int | None = None

    @property
    def about(self) -> dict[str, Any] | None:
        """What a sidecar says of the reward; nothing for one that its name says all of."""
        return None

    def prepare(self, record: Record) -> Any:
        """What `score` takes of a graded record. Raises RecordError if the record does not have it."""
        raise NotImplementedError

    def size(self, prepared: Any) -> int:
        """How much of the capacity a record takes."""
        return 1

    def score(self, records: Sequence[Record], prepared: Sequence[Any]) -> list[RewardResult]:
        """One result per record. Raises RewardFailed if the reward itself fails."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends what the reward keeps running."""


def need_answer(record: Record, reward: str) -> None:
    """Raises RecordError if the record has no answer to compare with."""
    if "answer" not in record:
        hint = "give the problems one, or take a reward that needs none (docs/rewards.md)"
        raise RecordError(f'no field "answer", which --reward {reward} needs; {hint}')
