"""Judges samples inside a process that trains on them: what `score` does to a file, without the file."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import NamedTuple

from reasonrl.errors import ReasonRLError
from reasonrl.records import Record
from reasonrl.rewards import exact
from reasonrl.rewards.external import Failed
from reasonrl.rewards.named import Choice, Means, make


class Judged(NamedTuple):
    """A sample's verdict. `rewards` by name, `reward` their weighted sum; of that sum, `step_rewards` (one a step) is
    what belongs to the steps one by one, and `final` the rest, which belongs to the solution's end."""

    correct: bool
    parseable: bool
    rewards: dict[str, float]
    reward: float
    step_rewards: list[float] | None
    final: float


class Judge:
    """The weighted sum of several rewards. `flexible`: which reading of the final answer counts as correct.

    read: the task's own reading, if it has one (`tasks.own.reading`).
    """

    def __init__(
        self,
        chosen: Sequence[Choice],
        means: Means,
        flexible: bool,
        read: Callable[[str], str | None] | None = None,
    ):
        self.chosen, self.flexible, self.read = chosen, flexible, read
        self.rewards = [make(choice, means) for choice in chosen]

    def __call__(self, records: Sequence[Record]) -> list[Judged]:
        """Samples, with the fields of their problems → verdicts. The fields of the verdict are added to the records.

        Raises ReasonRLError, with the sample's id, where a reward cannot judge it or fails.
        """
        credits = []
        for choice, reward, prepared in zip(self.chosen, self.rewards, self._prepare(records), strict=True):
            try:
                credits.append(reward.judge(records, prepared))
            except Failed as failure:
                at = records[failure.index or 0]["id"]
                raise ReasonRLError(f"{at}: --reward {choice.spec}: {failure}") from None
        return [self._sum(record, of_record) for record, *of_record in zip(records, *credits, strict=True)]

    def check(self, problems: Sequence[Record]) -> None:
        """Raises ReasonRLError for a problem that a reward could not judge whatever the completion: at once, and not
        where its turn comes."""
        self._prepare([problem | {"completion": ""} for problem in problems])

    def _prepare(self, records: Sequence[Record]) -> list[list]:
        """For each reward what it wants of the records, which get the verdict's fields."""
        for record in records:
            if "answer" in record:
                verdict = self._at(record, exact.judge, record["completion"], record["answer"], self.read)
                record |= verdict.fields(self.flexible)
        return [[self._at(record, reward.prepare, record) for record in records] for reward in self.rewards]

    def about(self) -> list[dict]:
        """What a checkpoint's marker says of the rewards."""
        more = [{"model": reward.about} if reward.about else {} for reward in self.rewards]
        return [asdict(choice) | of_reward for choice, of_reward in zip(self.chosen, more, strict=True)]

    def close(self) -> None:
        for reward in self.rewards:
            reward.close()

    def _at(self, record: Record, what, *given):
        try:
            return what(*given)
        except ReasonRLError as error:
            raise ReasonRLError(f"{record['id']}: {error}") from None

    def _sum(self, record: Record, credits) -> Judged:
        rewards, final, by_step = {}, 0.0, None
        for choice, credit in zip(self.chosen, credits, strict=True):
            rewards[choice.name] = credit.reward
            if credit.step_rewards is None:
                final += choice.weight * credit.reward
            else:
                earned = [choice.weight * reward for reward in credit.step_rewards]
                by_step = [a + b for a, b in zip(by_step, earned, strict=True)] if by_step else earned
        correct, parseable = record.get("correct", False), record.get("extracted") is not None
        return Judged(correct, parseable, rewards, final + sum(by_step or []), by_step, final)
