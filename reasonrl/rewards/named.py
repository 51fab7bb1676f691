"""Rewards by the name they have on the command line: exact, dense, orm, FILE.py:FUNCTION, cmd:PROGRAM.

Each has two halves. `prepare` takes what it needs from one record, and raises RecordError where that is missing.
`judge` turns records so prepared into Credits; a reward that does better on many at a time says how many in `capacity`.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from reasonrl.errors import RecordError, UsageError
from reasonrl.records import Record
from reasonrl.rewards import dense, external

BUILT_IN = ("exact", "dense", "orm")


class Credit(NamedTuple):
    """What a reward gives a sample; `step_rewards` sum to it, `step_values` are one probability a step."""

    reward: float
    step_rewards: list[float] | None = None
    step_values: list[float] | None = None


RIGHT, WRONG = Credit(1), Credit(0)


class Reward:
    """What every reward offers; the defaults are those of a reward that needs no more than a record.

    capacity: the sum of `size` over records that fills a call of `judge`; None where one record is as good as many.
    about: what a sidecar says of the reward, nothing for one that its name says all of.
    """

    capacity: int | None = None
    about: dict[str, Any] | None = None

    def prepare(self, record: Record) -> Any:
        """What `judge` wants of a record. Raises RecordError if the record does not have it."""
        raise NotImplementedError

    def size(self, prepared: Any) -> int:
        """How much of the capacity a record takes."""
        return 1

    def judge(self, records: Sequence[Record], prepared: Sequence[Any]) -> list[Credit]:
        """One Credit a record. Raises external.Failed if the reward itself fails."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends what the reward keeps running."""


@dataclass(frozen=True)
class Choice:
    """One --reward: its name in the records, what it is, and its weight in `reward`."""

    name: str
    spec: str
    weight: float = 1


def choices(rewards: Sequence[str], weights: Sequence[str]) -> list[Choice]:
    """Reads --reward [NAME=]WHAT and --weight NAME=W. Raises UsageError."""
    found: dict[str, str] = {}
    for text in rewards:
        given = re.fullmatch(r"(?:([A-Za-z_]\w*)=)?(.+)", text, re.DOTALL)
        name = given and (given[1] or default_name(given[2]))
        if not name:
            raise UsageError(f"--reward {text}: want {', '.join(BUILT_IN)}, FILE.py:FUNCTION, or 'cmd:PROGRAM'")
        if name in found:
            raise UsageError(f"--reward {text}: there is a reward {name} already; NAME={given[2]} names it otherwise")
        found[name] = given[2]
    amount = dict.fromkeys(found, 1)
    for text in weights:
        name, equals, number = text.partition("=")
        try:
            amount[name] = float(number) if equals and name in found else math.nan
        except ValueError:
            amount[name] = math.nan
        if not math.isfinite(amount[name]):
            raise UsageError(f"--weight {text}: want NAME=NUMBER, NAME one of {', '.join(found)}")
    return [Choice(name, spec, amount[name]) for name, spec in found.items()]


def default_name(spec: str) -> str | None:
    """exact, dense, orm; the function's name; the program's name without folder and suffix. None: no such thing."""
    if spec in BUILT_IN:
        return spec
    if spec.startswith("cmd:"):
        words = spec[4:].split()
        return (os.path.basename(words[0]).partition(".")[0] or words[0]) if words else "cmd"
    file, colon, function = spec.rpartition(":")
    return function if colon and file.endswith(".py") and function.isidentifier() else None


def _need_answer(record: Record, reward: str) -> None:
    if "answer" not in record:
        hint = "give the problems one, or take a reward that needs none (docs/rewards.md)"
        raise RecordError(f'no field "answer", which --reward {reward} needs; {hint}')


class Exact(Reward):
    """1 where the final answer is right. `score` has put the verdict in."""

    def prepare(self, record: Record) -> None:
        _need_answer(record, "exact")

    def judge(self, records: Sequence[Record], prepared: Sequence[None]) -> list[Credit]:
        return [RIGHT if record["correct"] else WRONG for record in records]


class Dense(Reward):
    """See `rewards.dense`."""

    def prepare(self, record: Record) -> list[float]:
        _need_answer(record, "dense")
        reference = dense.reference_of(record)
        return dense.step_rewards(record["completion"], record["correct"], reference, record["answer"])

    def judge(self, records: Sequence[Record], prepared: Sequence[list[float]]) -> list[Credit]:
        return [Credit(sum(steps), step_rewards=steps) for steps in prepared]


class Own(Reward):
    """See `rewards.external`."""

    capacity = 1024

    def __init__(self, spec: str, timeout: float):
        if spec.startswith("cmd:"):
            self.verifier = external.Program(spec[4:], timeout)
        else:
            file, _, function = spec.rpartition(":")
            self.verifier = external.Function(file, function, timeout)

    def prepare(self, record: Record) -> None:
        pass

    def judge(self, records: Sequence[Record], prepared: Sequence[None]) -> list[Credit]:
        return [Credit(value) for value in self.verifier(records)]

    def close(self) -> None:
        self.verifier.close()


@dataclass(frozen=True)
class Means:
    """What rewards that are more than a rule run on. orm: a checkpoint; timeout: seconds a program may be silent."""

    orm: str = "tiny-orm"
    device: str | None = None
    dtype: str = "fp32"
    batch_tokens: int | None = None
    timeout: float = 60.0


def make(choice: Choice, means: Means) -> Reward:
    """The reward of a choice, ready to judge. Loads the outcome reward model, or starts the program."""
    if choice.spec == "exact":
        return Exact()
    if choice.spec == "dense":
        return Dense()
    if choice.spec != "orm":
        return Own(choice.spec, means.timeout)
    from reasonrl.rewards.orm import load_reward  # brings torch

    return load_reward(means.orm, means.device, means.dtype, means.batch_tokens)
