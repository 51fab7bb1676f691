"""Rewards by the name they have on the command line: exact, dense, orm, FILE.py:FUNCTION, cmd:PROGRAM."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from reasonrl.errors import UsageError
from reasonrl.io.records import Record
from reasonrl.rewards.base import Reward, RewardResult, need_answer
from reasonrl.rewards.dense import DenseReward
from reasonrl.rewards.external import ExternalReward

BUILT_IN = ("exact", "dense", "orm")


@dataclass(frozen=True)
class RewardSpec:
    """One --reward: its name in the records, what it is, and its weight in the sum, `reward`."""

    name: str
    spec: str
    weight: float = 1


def reward_specs(rewards: Sequence[str], weights: Sequence[str]) -> list[RewardSpec]:
    """Reads --reward [NAME=]WHAT and --weight NAME=W. Raises UsageError."""
    specs: dict[str, str] = {}
    for text in rewards:
        parts = re.fullmatch(r"(?:([A-Za-z_]\w*)=)?(.+)", text, re.DOTALL)
        default = parts and default_name(parts[2])
        if not parts or not default:  # what has no name of its own is no reward, whatever it is called
            raise UsageError(f"--reward {text}: want {', '.join(BUILT_IN)}, FILE.py:FUNCTION, or 'cmd:PROGRAM'")
        name = parts[1] or default
        if name in specs:
            raise UsageError(f"--reward {text}: there is a reward {name} already; NAME={parts[2]} names it otherwise")
        specs[name] = parts[2]
    amount: dict[str, float] = dict.fromkeys(specs, 1)
    for text in weights:
        name, equals, number = text.partition("=")
        try:
            amount[name] = float(number) if equals and name in specs else math.nan
        except ValueError:
            amount[name] = math.nan
        if not math.isfinite(amount[name]):
            raise UsageError(f"--weight {text}: want NAME=NUMBER, NAME one of {', '.join(specs)}")
    return [RewardSpec(name, spec, amount[name]) for name, spec in specs.items()]


def default_name(spec: str) -> str | None:
    """exact, dense, orm; the function's name; the program's name without folder and suffix. None: no such thing."""
    if spec in BUILT_IN:
        return spec
    if spec.startswith("cmd:"):
        words = spec[4:].split()
        return (os.path.basename(words[0]).partition(".")[0] or words[0]) if words else "cmd"
    file, colon, function = spec.rpartition(":")
    return function if colon and file.endswith(".py") and function.isidentifier() else None


class ExactReward(Reward):
    """1 where the final answer is right, else 0: the paper's sparse reward. Grading has put the verdict in."""

    def prepare(self, record: Record) -> None:
        need_answer(record, "exact")

    def score(self, records: Sequence[Record], prepared: Sequence[None]) -> list[RewardResult]:
        return [RewardResult(1 if record["correct"] else 0) for record in records]


@dataclass(frozen=True)
class RewardResources:
    """What rewards that are more than a rule run on. orm: a checkpoint; timeout: seconds a program may be silent."""

    orm: str = "tiny-orm"
    device: str | None = None
    dtype: str = "fp32"
    batch_tokens: int | None = None
    timeout: float = 60.0


def make(spec: RewardSpec, resources: RewardResources) -> Reward:
    """The reward of a spec, ready to score. Loads the outcome reward model, or starts the program."""
    if spec.spec == "exact":
        return ExactReward()
    if spec.spec == "dense":
        return DenseReward()
    if spec.spec != "orm":
        return ExternalReward(spec.spec, resources.timeout)
    from reasonrl.rewards.reward_model import load_reward  # brings torch

    return load_reward(resources.orm, resources.device, resources.dtype, resources.batch_tokens)
