"""Judges samples inside a process that trains on them: what `score` does to a file, without the file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from reasonrl import console
from reasonrl.errors import ReasonRLError, TooLong
from reasonrl.records import Record
from reasonrl.rewards import exact
from reasonrl.rewards.external import Failed
from reasonrl.rewards.named import Choice, Credit, Means, Reward, make


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
        self.told = False  # that something was too long

    def __call__(self, records: Sequence[Record]) -> list[Judged]:
        """Samples, with the fields of their problems → verdicts. The fields of the verdict are added to the records.

        A sample that a reward model cannot read whole earns nothing from it: one rollout does not end a run of days.
        Raises ReasonRLError, with the sample's id, where a reward cannot judge it or fails.
        """
        for record in records:
            self._at(record, self._verdict, record)
        credits = [self._credits(*one, records) for one in zip(self.chosen, self.rewards, strict=True)]
        return [self._sum(record, of_record) for record, *of_record in zip(records, *credits, strict=True)]

    def check(self, longest: Sequence[Record]) -> None:
        """Problems, each with the longest completion that may come. Raises ReasonRLError for one that a reward could
        not judge: at once, and not where its turn comes."""
        for record in longest:
            self._at(record, self._verdict, record)
            try:
                for reward in self.rewards:
                    self._at(record, reward.prepare, record)
            except TooLong as error:
                raise TooLong(f"{error}; a smaller --max-tokens makes shorter completions") from None

    def _verdict(self, record: Record) -> None:
        if "answer" in record:
            record |= exact.judge(record["completion"], record["answer"], self.read).fields(self.flexible)

    def _credits(self, choice: Choice, reward: Reward, records: Sequence[Record]) -> list[Credit]:
        """What one reward gives the records, asked for as many at a time as it takes."""
        found = [Credit(0.0)] * len(records)
        for part in self._parts(reward, records):
            asked = [records[index] for index, _ in part]
            try:
                credits = reward.judge(asked, [prepared for _, prepared in part])
            except Failed as failure:
                ids = [record["id"] for record in asked]
                at = f"{ids[0]} to {ids[-1]}" if failure.index is None else ids[failure.index]
                raise ReasonRLError(f"{at}: --reward {choice.spec}: {failure}") from None
            for (index, _), credit in zip(part, credits, strict=True):
                found[index] = credit
        return found

    def _parts(self, reward: Reward, records: Sequence[Record]) -> Iterator[list[tuple[int, Any]]]:
        """Indices of records and what the reward wants of each, no more at a time than its capacity."""
        part, filled = [], 0
        for index, record in enumerate(records):
            try:
                prepared = self._at(record, reward.prepare, record)
            except TooLong as error:
                self._tell(str(error))
                continue
            if part and reward.capacity and filled + reward.size(prepared) > reward.capacity:
                yield part
                part, filled = [], 0
            part.append((index, prepared))
            filled += reward.size(prepared)
        if part:
            yield part

    def _tell(self, error: str) -> None:
        if not self.told:
            console.warn(f"{error}: it earns nothing there, and so will others like it")
        self.told = True

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
            kind = TooLong if isinstance(error, TooLong) else ReasonRLError
            raise kind(f"{record['id']}: {error}") from None

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
