"""The stages about other stages: `plan` and `demo`."""

from dataclasses import dataclass
from typing import ClassVar

from reasonrl.settings.declare import argument, setting
from reasonrl.settings.shared import OutputSettings


@dataclass(frozen=True, kw_only=True)
class PlanSettings(OutputSettings):
    STAGE: ClassVar[str] = "plan"

    lines: tuple[str, ...] = argument((), "Files with a command a line; default: stdin.", "COMMANDS|-")
    device: str = setting("cpu2", "cpu2, a100, h100.", "Machine", metavar="D")
    assume: tuple[str, ...] = setting(
        (), "What only a run can tell, such as keep=0.4; may be repeated.", "Machine", metavar="NAME=VALUE",
        shown="docs/plan.md",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DemoSettings(OutputSettings):
    STAGE: ClassVar[str] = "demo"

    output: str = setting("runs/demo", "Where everything is written.", "Output", "", "-o", metavar="DIR", role="manner")
    rounds: int = setting(2, "Rounds of Expert Iteration.", "Rollouts", bounds=(1, None))
    seed: int = setting(0, "Seed of every random choice.", "Rollouts", bounds=(0, None))
