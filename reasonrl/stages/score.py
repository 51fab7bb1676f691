"""`reasonrl score`: adds verdicts and rewards to samples."""

import contextlib
import os
from collections.abc import Callable
from functools import partial

from reasonrl import console
from reasonrl.errors import ReasonRLError, RecordError, UsageError
from reasonrl.grading.verdict import Verdict
from reasonrl.io import jsonl, provenance, streams
from reasonrl.io.records import Record, need_text, rewards_of
from reasonrl.rewards.registry import RewardResources, reward_specs
from reasonrl.rewards.scorer import Pending, RewardScorer, Score
from reasonrl.settings import ScoreSettings
from reasonrl.tasks import source, user_file


def score(settings: ScoreSettings) -> None:
    """Score samples: add verdicts and rewards to each record.

    Reads each final answer and compares it with the problem's. Adds `correct`, `correct_strict`, `correct_flexible`,
    `extracted`, `rewards` and their sum `reward`. A marked answer follows ####, A:, \\boxed{ or "the answer is";
    docs/score.md says how numbers are compared, docs/tasks.md how a task of your own reads answers, docs/orm.md and
    docs/dense.md what the rewards `orm` and `dense` are, docs/rewards.md how to bring your own.

    \b
    Examples:
      reasonrl sample --k 4 | reasonrl score | jq -c '[.id, .k, .reward]'
      reasonrl sample --k 96 | reasonrl score --reward orm | reasonrl eval
      reasonrl score samples.jsonl --reward exact --answer flexible -o scored.jsonl
      reasonrl score samples.jsonl --reward exact --reward orm --weight orm=0.5 --orm runs/orm -o scored.jsonl
      reasonrl score samples.jsonl --reward verify.py:check --reward 'cmd:./verify --strict' > scored.jsonl
      reasonrl score samples.jsonl --task chess.py -o scored.jsonl
      reasonrl score samples.jsonl --on-error skip --rejects bad.jsonl > scored.jsonl
    """
    specs = reward_specs(settings.reward, settings.weight)
    readers = jsonl.inputs(settings.samples)
    read = answer_reader(settings.task)
    # A model or a program continues after the records already written. To score all that again, in other batches, would
    # cost the time once more, and might give other last digits.
    replay = all(spec.spec in ("exact", "dense") for spec in specs)
    with provenance.open_output(provenance.Run(settings), replay=replay) as out:
        out.reads(readers)
        bad = jsonl.BadLines(settings.on_error, settings.rejects, used=[*settings.samples, settings.output])
        resources = RewardResources(
            settings.orm, settings.device, settings.dtype, settings.batch_tokens, settings.timeout
        )
        with contextlib.closing(RewardScorer(specs, resources, settings.answer, read)) as scorer:
            if out.is_file:
                abouts = {spec.spec: reward.about for spec, reward in zip(specs, scorer.rewards, strict=True)}
                out.extra |= {name: about for name, about in abouts.items() if about}
            stream = Stream(scorer, out, skip=not replay)
            for reader in readers:
                reader.before_wait = partial(stream.pause, reader)
            try:
                jsonl.each(readers, stream.visit, bad)
            except ReasonRLError:
                stream.flush()  # what came before the bad line is not lost
                raise
            stream.finish()
        out.counts = stream.tally.counts() | {"skipped": bad.count}
        out.extra |= {"seconds_of": dict(zip((spec.name for spec in specs), scorer.seconds, strict=True))}
    stream.tally.show()


def answer_reader(task: str | None) -> Callable[[str], str | None] | None:
    """How `--task` reads answers; None where it reads numbers as all but a Python file do. Raises UsageError."""
    if task and not (task in source.TASKS or os.path.exists(task)):
        raise UsageError(f"--task {task}: no such task; there are {', '.join(source.TASKS)}, or name a file")
    return user_file.answer_reader(task)


class Stream:
    """Records on their way through the scorer. They leave in the order in which they came: at once where no reward
    works in batches, else when the scorer is full and when stdin has nothing more for now.

    skip: with --resume, records that an earlier run has scored already are passed over.
    """

    def __init__(self, scorer: RewardScorer, out: provenance.Output, skip: bool):
        self.scorer, self.out = scorer, out
        self.tally = Tally(scorer)
        self.earlier = out.kept_records() if skip else iter(())
        self.reader: jsonl.Reader | None = None

    @property
    def place(self) -> str:
        """File and line of the record that came in last."""
        return f"{self.reader.name}:{self.reader.line_number}" if self.reader else ""

    def pause(self, reader: jsonl.Reader) -> None:
        """Called before each wait for more of `reader`."""
        self.reader = reader
        if not self.scorer.is_empty and reader.path == "-" and streams.stdin_is_idle():
            self.flush()
        self.out.flush()

    def visit(self, record: Record, _: bytes) -> None:
        """Grades a record, and hands it to the scorer."""
        need_text(record, "completion")
        rewards_of(record)  # refuses what it could not be added to
        try:
            verdict = self.scorer.grade(record)
        except RecordError:
            raise
        except ReasonRLError as error:  # of the task's own reader
            raise ReasonRLError(f"{self.place}: {error}") from None
        prepared = self.scorer.prepare(record)
        self.tally.add(verdict)  # not before: a reward may refuse the record
        if (scored := next(self.earlier, None)) is not None:
            if any(scored.get(field) != record.get(field) for field in ("id", "k", "completion", "correct")):
                raise UsageError(f"{self.out.partial}: record {self.tally.samples} {jsonl.OTHER}")
            return
        if not self.scorer.works_in_batches:
            self.out.write(with_score(record, self.scorer.score_alone(record, prepared)))
            return
        self.scorer.add(Pending(record, self.place, prepared))
        if self.scorer.is_full:
            self.flush()

    def flush(self) -> None:
        """Writes what the scorer holds."""
        for pending, score in self.scorer.flush():
            try:
                self.out.write(with_score(pending.record, score))
            except RecordError as error:
                raise ReasonRLError(f"{pending.place}: {error}") from None

    def finish(self) -> None:
        self.flush()
        if next(self.earlier, None) is not None:
            raise UsageError(f"{self.out.partial}: record {self.tally.samples + 1} {jsonl.OTHER}")


def with_score(record: Record, score: Score) -> Record:
    """The record with its rewards, beside those that it came with."""
    for name, result in score.results.items():
        for field, steps in (("step_rewards", result.step_rewards), ("step_values", result.step_values)):
            if steps is not None:
                record[field] = (record.get(field) or {}) | {name: steps}
    before = record.get("rewards") or {}  # `visit` has seen that they are numbers by name
    record["rewards"] = before | {name: result.reward for name, result in score.results.items()}
    record["reward"] = score.reward
    return record


class Tally:
    """Counts how the final answers compare."""

    def __init__(self, scorer: RewardScorer):
        self.flexible, self.has_reader = scorer.flexible, scorer.read is not None
        self.samples = self.graded = self.strict = self.lenient = self.unparseable = 0

    def add(self, verdict: Verdict | None) -> None:
        self.samples += 1
        if verdict:
            self.graded += 1
            self.strict += verdict.strict
            self.lenient += verdict.flexible
            extracted = verdict.extracted_flexible if self.flexible else verdict.extracted_strict
            self.unparseable += extracted is None

    def counts(self) -> Record:
        """For the sidecar."""
        return {"correct_strict": self.strict, "correct_flexible": self.lenient, "unparseable": self.unparseable}

    def show(self) -> None:
        if not self.samples:
            console.warn("no samples came in")
        elif self.graded:
            console.log(
                f"{self.samples} samples: {self.strict / self.graded:.1%} correct (strict), "
                f"{self.lenient / self.graded:.1%} (flexible), {self.unparseable / self.graded:.1%} without a "
                f"{'' if self.flexible or self.has_reader else 'marked '}answer"
            )
