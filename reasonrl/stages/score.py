"""`reasonrl score`: adds verdicts and rewards to samples."""

import contextlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any, NamedTuple

import typer

from reasonrl import console, jsonl, provenance, streams
from reasonrl.errors import ReasonRLError, RecordError, UsageError
from reasonrl.records import Record, need_text, rewards_of
from reasonrl.rewards import exact
from reasonrl.rewards.external import Failed
from reasonrl.rewards.named import Choice, Credit, Means, Reward, choices, make
from reasonrl.stages import flags
from reasonrl.tasks import own, source

RewardFlag = Annotated[
    list[str] | None,
    typer.Option("--reward", metavar="[NAME=]WHAT", show_default="exact",
                 help="exact, dense, orm, FILE.py:FUNCTION, or 'cmd:PROGRAM'; may be repeated."),
]  # fmt: skip
Weight = Annotated[
    list[str] | None,
    typer.Option("--weight", metavar="NAME=W", show_default="1",
                 help="The reward's weight in the sum, `reward`; may be repeated."),
]  # fmt: skip
Task = Annotated[
    str | None,
    typer.Option("--task", metavar="TASK", show_default=False,
                 help="Read answers as this task does: a FILE.py with a function `extract`."),
]  # fmt: skip
Orm = Annotated[
    str,
    typer.Option("--orm", metavar="M", envvar="REASONRL_ORM", show_envvar=False,
                 help="The outcome reward model: a checkpoint of `reasonrl orm`.",
                 show_default="$REASONRL_ORM or tiny-orm"),
]  # fmt: skip
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="How long a reward of your own may be silent.")
]
DType = Annotated[
    flags.Precision, typer.Option("--dtype", help="Precision of the ORM; in fp32 scores do not depend on the batch.")
]


def score(
    samples: flags.Records = None,
    reward: RewardFlag = None,
    weight: Weight = None,
    answer: flags.AnswerFlag = flags.Answer.strict,
    task: Task = None,
    orm: Orm = "tiny-orm",
    timeout: Timeout = 60.0,
    batch_tokens: flags.BatchTokens = None,
    device: flags.Device = None,
    dtype: DType = flags.Precision.fp32,
    output: flags.OutputFile = "-",
    force: flags.Force = False,
    resume: flags.Resume = False,
    on_error: flags.OnErrorFlag = flags.OnError.fail,
    rejects: flags.Rejects = None,
) -> None:
    """Score samples: add verdicts and rewards to each record.

    Reads each final answer and compares it with the problem's. Adds `correct`, `correct_strict`, `correct_flexible`,
    `extracted`, `rewards` and their sum `reward`. A marked answer follows ####, A:, \\boxed{ or "the answer is";
    docs/score.md tells how numbers are compared, docs/tasks.md how a task of your own reads answers, docs/orm.md and
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
    chosen = choices(reward or ["exact"], weight or [])
    readers = jsonl.inputs(samples or [])
    tally = Tally(answer == flags.Answer.flexible, reading_of(task))
    # A model or a program goes on behind what an earlier run wrote. To judge all that again, in other batches, would
    # cost the time once more, and might give other last digits.
    replay = all(choice.spec in ("exact", "dense") for choice in chosen)
    with provenance.open_output(output, force=force, resume=resume, replay=replay) as out, ExitStack() as running:
        out.reads(readers)
        bad = jsonl.BadLines(on_error, rejects, used=[*(samples or []), output])
        means = Means(orm, device, dtype.value, batch_tokens, timeout)
        rewards = [running.enter_context(contextlib.closing(make(choice, means))) for choice in chosen]
        if out.is_file:
            out.extra |= {choice.spec: one.about for choice, one in zip(chosen, rewards, strict=True) if one.about}
        window = Window(chosen, rewards, out)
        for reader in readers:
            reader.before_wait = partial(window.pause, reader)
        earlier = iter(()) if replay else out.kept_records()

        def visit(record: Record, _: bytes) -> None:
            need_text(record, "completion")
            before, found = rewards_of(record), None
            if "answer" in record:
                try:
                    found = tally.read_answer(record)
                except RecordError:
                    raise
                except ReasonRLError as error:  # of the task's own reading
                    raise ReasonRLError(f"{window.place}: {error}") from None
                record |= found.fields(tally.flexible)
            prepared = [one.prepare(record) for one in rewards]
            tally.add(found)  # not before: a reward may refuse the record
            if (scored := next(earlier, None)) is None:
                window.add(record, before, prepared)
            elif any(scored.get(field) != record.get(field) for field in ("id", "k", "completion", "correct")):
                raise UsageError(f"{out.partial}: record {tally.samples} {jsonl.OTHER}")

        try:
            jsonl.each(readers, visit, bad)
        except ReasonRLError:
            window.flush()  # what came before the bad line is not lost
            raise
        window.flush()
        if next(earlier, None) is not None:
            raise UsageError(f"{out.partial}: record {tally.samples + 1} {jsonl.OTHER}")
        out.counts = tally.counts() | {"skipped": bad.count}
        out.extra |= {"seconds_of": dict(zip((choice.name for choice in chosen), window.seconds, strict=True))}
    tally.show()


def reading_of(task: str | None) -> Callable[[str], str | None] | None:
    """How `--task` reads answers; None where it reads numbers as all but a Python file do. Raises UsageError."""
    if task and not (task in source.TASKS or os.path.exists(task)):
        raise UsageError(f"--task {task}: no such task; there are {', '.join(source.TASKS)}, or name a file")
    return own.reading(task)


class Tally:
    """Reads final answers and counts how they compare. read: a task's own reading, if it has one."""

    def __init__(self, flexible: bool, read: Callable[[str], str | None] | None):
        self.flexible, self.own_reading = flexible, read
        self.samples = self.judged = self.strict = self.lenient = self.unparseable = 0

    def read_answer(self, record: Record) -> exact.Verdict:
        """Whether the final answer is right. Raises RecordError if `answer` is no number."""
        need_text(record, "answer")
        return exact.judge(record["completion"], record["answer"], self.own_reading)

    def add(self, found: exact.Verdict | None) -> None:
        self.samples += 1
        if found:
            self.judged += 1
            self.strict += found.strict
            self.lenient += found.flexible
            self.unparseable += (found.extracted_flexible if self.flexible else found.extracted_strict) is None

    def counts(self) -> Record:
        """For the sidecar."""
        return {"correct_strict": self.strict, "correct_flexible": self.lenient, "unparseable": self.unparseable}

    def show(self) -> None:
        if not self.samples:
            console.warn("no samples came in")
        elif self.judged:
            console.log(
                f"{self.samples} samples: {self.strict / self.judged:.1%} correct (strict), "
                f"{self.lenient / self.judged:.1%} (flexible), {self.unparseable / self.judged:.1%} without a "
                f"{'' if self.flexible or self.own_reading else 'marked '}answer"
            )


class Held(NamedTuple):
    """A record that waits to be judged, with the rewards that it came with, and where it came from."""

    record: Record
    rewards: Record
    prepared: list[Any]
    place: str


class Window:
    """Records on their way to the rewards: as many at a time as a reward that judges in batches can use.

    They leave in the order in which they came: at once where no reward judges in batches, else when the window is full
    and when stdin has nothing more for now.
    """

    def __init__(self, chosen: list[Choice], rewards: list[Reward], out: provenance.Output):
        self.chosen, self.rewards, self.out = chosen, rewards, out
        self.reader: jsonl.Reader | None = None
        self.held: list[Held] = []
        self.batching = [(number, one) for number, one in enumerate(rewards) if one.capacity]
        self.filled = [0] * len(rewards)
        self.seconds = [0.0] * len(rewards)

    @property
    def place(self) -> str:
        """File and line of the record that came in last."""
        return f"{self.reader.name}:{self.reader.line_number}"

    def pause(self, reader: jsonl.Reader) -> None:
        """Called before each wait for more of `reader`."""
        self.reader = reader
        if self.held and reader.path == "-" and streams.stdin_is_idle():
            self.flush()
        self.out.flush()

    def add(self, record: Record, before: Record, prepared: list[Any]) -> None:
        """A record for the window."""
        if not self.batching:
            credits = [one.judge((record,), (own,))[0] for one, own in zip(self.rewards, prepared, strict=True)]
            self._write(record, before, credits)
            return
        self.held.append(Held(record, before, prepared, self.place))
        for number, one in self.batching:
            self.filled[number] += one.size(prepared[number])
        if any(self.filled[number] >= one.capacity for number, one in self.batching):
            self.flush()

    def flush(self) -> None:
        """Judges what is held, and writes it. Raises ReasonRLError, with its place, where a reward fails."""
        held, self.held, self.filled = self.held, [], [0] * len(self.rewards)
        if not held:
            return
        records = [one.record for one in held]
        judged = [self._judge(number, held, records) for number in range(len(self.rewards))]
        for one, credits in zip(held, zip(*judged, strict=True), strict=True):
            try:
                self._write(one.record, one.rewards, credits)
            except RecordError as error:
                raise ReasonRLError(f"{one.place}: {error}") from None

    def _write(self, record: Record, rewards: Record, credits: Sequence[Credit]) -> None:
        total = 0
        for choice, credit in zip(self.chosen, credits, strict=True):
            rewards[choice.name] = credit.reward
            total += choice.weight * credit.reward
            for field, steps in (("step_rewards", credit.step_rewards), ("step_values", credit.step_values)):
                if steps is not None:
                    record[field] = (record.get(field) or {}) | {choice.name: steps}
        record["rewards"] = rewards
        record["reward"] = total
        self.out.write(record)

    def _judge(self, number: int, held: list[Held], records: list[Record]) -> list[Credit]:
        watch = console.Stopwatch()
        try:
            return self.rewards[number].judge(records, [one.prepared[number] for one in held])
        except Failed as failure:
            at = held[0].place if len(held) == 1 else f"{held[0].place} to {held[-1].place}"
            if failure.index is not None:
                at = held[failure.index].place
            raise ReasonRLError(f"{at}: --reward {self.chosen[number].spec}: {failure}") from None
        finally:
            self.seconds[number] += watch.seconds
