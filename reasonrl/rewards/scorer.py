"""Grades and scores samples: for `score`, which writes what comes out, and for the trainers, which learn from it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from reasonrl import console
from reasonrl.errors import ReasonRLError, TooLong
from reasonrl.grading import verdict
from reasonrl.io.records import Record, need_text
from reasonrl.rewards.base import Reward, RewardFailed, RewardResult
from reasonrl.rewards.registry import RewardResources, RewardSpec, make
from reasonrl.settings.shared import Answer

NOTHING = RewardResult(0.0)
UNREADABLE = object()  # what stands for a sample that is too long for a reward


class Score(NamedTuple):
    """What the rewards give a sample. results: of each reward, by name; `reward` is their weighted sum. Of that sum,
    `step_rewards` (one per step) belongs to the steps one by one, and `final` is the rest, which belongs to the
    solution's end."""

    results: dict[str, RewardResult]
    reward: float
    step_rewards: list[float] | None
    final: float


class Pending(NamedTuple):
    """A graded record that waits to be scored. place: where it came from, for errors. prepared: what each reward takes
    of it."""

    record: Record
    place: str
    prepared: list[Any]


class RewardScorer:
    """The verdict, and the weighted sum of several rewards.

    answer: which reading of the final answer counts as correct. read: the task's own reader of answers, if it has one.
    Where a reward works in batches, records wait (`add`) until there are as many as it can use (`is_full`), and `flush`
    scores them; else `score_alone` does it at once. `seconds` is what each reward has taken for its batches.
    """

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        resources: RewardResources,
        answer: Answer = "strict",
        read: Callable[[str], str | None] | None = None,
    ):
        self.specs, self.flexible, self.read = specs, answer == "flexible", read
        self.rewards: list[Reward] = []
        for spec in specs:
            try:
                self.rewards.append(make(spec, resources))
            except BaseException:
                self.close()
                raise
        self.works_in_batches = any(reward.capacity for reward in self.rewards)
        self.seconds = [0.0] * len(specs)
        self._pending: list[Pending] = []
        self._filled = [0] * len(specs)
        self._has_warned = False

    def grade(self, record: Record) -> verdict.Verdict | None:
        """Whether the final answer is right; None for a record without an answer to compare with. Adds the fields of
        the verdict to the record. Raises RecordError if `answer` is no number, ReasonRLError if `read` fails."""
        if "answer" not in record:
            return None
        need_text(record, "answer")
        graded = verdict.grade(record["completion"], record["answer"], self.read)
        record |= graded.fields(self.flexible)
        return graded

    def prepare(self, record: Record) -> list[Any]:
        """What each reward takes of a graded record. Raises RecordError where one needs what the record does not have,
        TooLong where a reward model cannot read it whole."""
        return [reward.prepare(record) for reward in self.rewards]

    def score_alone(self, record: Record, prepared: Sequence[Any]) -> Score:
        """The score of one record, where no reward works in batches."""
        pairs = zip(self.rewards, prepared, strict=True)
        return self._sum([reward.score((record,), (own,))[0] for reward, own in pairs])

    def add(self, pending: Pending) -> None:
        self._pending.append(pending)
        for number, (reward, prepared) in enumerate(zip(self.rewards, pending.prepared, strict=True)):
            self._filled[number] += 0 if prepared is UNREADABLE else reward.size(prepared)

    @property
    def is_full(self) -> bool:
        """Whether a reward that works in batches has as many records as it can use."""
        pairs = zip(self._filled, self.rewards, strict=True)
        return any(filled >= reward.capacity for filled, reward in pairs if reward.capacity)

    @property
    def is_empty(self) -> bool:
        return not self._pending

    def flush(self) -> Iterator[tuple[Pending, Score]]:
        """Scores what is pending, in the order in which it came. Raises ReasonRLError, with the place, where a reward
        fails."""
        batch = self._pending
        self._drop_pending()
        if not batch:
            return
        results = [self._results(number, batch) for number in range(len(self.rewards))]
        for pending, of_record in zip(batch, zip(*results, strict=True), strict=True):
            yield pending, self._sum(of_record)

    def __call__(self, graded: Sequence[Record]) -> list[Score]:
        """The scores of graded records.

        A sample that a reward model cannot read whole earns nothing from it: one rollout does not end a run of days.
        Raises ReasonRLError, with the sample's id, where a reward cannot score it or fails.
        """
        scores: list[Score] = []
        try:
            for record in graded:
                prepared = [_at(record, self._prepare_or_warn, reward, record) for reward in self.rewards]
                self.add(Pending(record, record["id"], prepared))
                if self.is_full:
                    scores += [score for _, score in self.flush()]
            return scores + [score for _, score in self.flush()]
        except BaseException:
            self._drop_pending()  # they would come out of the next call
            raise

    def grade_all(self, records: Sequence[Record]) -> list[verdict.Verdict | None]:
        """`grade` of each; an error says which one by its id."""
        return [_at(record, self.grade, record) for record in records]

    def check(self, longest: Sequence[Record]) -> None:
        """Problems, each with the longest completion that may come. Raises ReasonRLError for one that a reward could
        not score: at once, and not where its turn comes."""
        for record in longest:
            _at(record, self.grade, record)
            try:
                for reward in self.rewards:
                    _at(record, reward.prepare, record)
            except TooLong as error:
                raise TooLong(f"{error}; a smaller --max-tokens makes shorter completions") from None

    def about(self) -> list[dict[str, Any]]:
        """What a checkpoint's marker says of the rewards."""
        more = [{"model": reward.about} if reward.about else {} for reward in self.rewards]
        return [asdict(spec) | of_reward for spec, of_reward in zip(self.specs, more, strict=True)]

    def close(self) -> None:
        for reward in self.rewards:
            reward.close()

    def _drop_pending(self) -> None:
        self._pending, self._filled = [], [0] * len(self.rewards)

    def _prepare_or_warn(self, reward: Reward, record: Record) -> Any:
        try:
            return reward.prepare(record)
        except TooLong as error:
            if not self._has_warned:
                console.warn(f"{record['id']}: {error}: it earns nothing there, and so will others like it")
            self._has_warned = True
            return UNREADABLE

    def _results(self, number: int, batch: Sequence[Pending]) -> list[RewardResult]:
        """What one reward gives a batch."""
        readable = [pending for pending in batch if pending.prepared[number] is not UNREADABLE]
        if not readable:
            return [NOTHING] * len(batch)
        watch = console.Stopwatch()
        try:
            scored = self.rewards[number].score(
                [pending.record for pending in readable], [pending.prepared[number] for pending in readable]
            )
        except RewardFailed as failure:
            at = readable[0].place if len(readable) == 1 else f"{readable[0].place} to {readable[-1].place}"
            if failure.index is not None:
                at = readable[failure.index].place
            raise ReasonRLError(f"{at}: --reward {self.specs[number].spec}: {failure}") from None
        finally:
            self.seconds[number] += watch.seconds
        results = iter(scored)
        return [NOTHING if pending.prepared[number] is UNREADABLE else next(results) for pending in batch]

    def _sum(self, results: Sequence[RewardResult]) -> Score:
        total: float = 0  # a whole number where all rewards are
        final = 0.0
        by_step: list[float] | None = None
        for spec, result in zip(self.specs, results, strict=True):
            total += spec.weight * result.reward
            if result.step_rewards is None:
                final += spec.weight * result.reward
            else:
                earned = [spec.weight * reward for reward in result.step_rewards]
                by_step = [a + b for a, b in zip(by_step, earned, strict=True)] if by_step else earned
        by_name = {spec.name: result for spec, result in zip(self.specs, results, strict=True)}
        return Score(by_name, total, by_step, final)


def _at(record: Record, what: Callable[..., Any], *arguments: Any) -> Any:
    """`what(…)`; an error of it says which record it is about."""
    try:
        return what(*arguments)
    except ReasonRLError as error:
        kind = TooLong if isinstance(error, TooLong) else ReasonRLError
        raise kind(f"{record['id']}: {error}") from None
