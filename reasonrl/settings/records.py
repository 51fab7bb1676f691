"""The stages that read and write records and load no language model."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from reasonrl.settings.declare import argument, setting
from reasonrl.settings.shared import (
    BadLineSettings,
    DeviceSettings,
    OutputSettings,
    Precision,
    RewardSettings,
    TaskFileSettings,
)

FILES = "JSONL files; default: stdin."


@dataclass(frozen=True, kw_only=True)
class DataSettings(OutputSettings, TaskFileSettings):
    STAGE: ClassVar[str] = "data"

    task: str = argument(..., "mini, gsm8k, svamp, a JSONL or Python file, or `-` (stdin).", "TASK")
    seed: int | None = setting(
        None, "Shuffle with this seed.", "Problems", shown="the task's own order", bounds=(0, None)
    )


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(OutputSettings, DeviceSettings, RewardSettings, BadLineSettings):
    STAGE: ClassVar[str] = "score"

    samples: tuple[str, ...] = argument((), FILES, "FILE|-")
    task: str | None = setting(
        None, "Read answers as this task does: a FILE.py with a function `extract`.", "Reward", metavar="TASK",
        role="reads",
    )  # fmt: skip
    dtype: Precision = setting("fp32", "Precision of the ORM; in fp32 scores do not depend on the batch.", "Machine")


@dataclass(frozen=True, kw_only=True)
class FilterSettings(OutputSettings, BadLineSettings):
    STAGE: ClassVar[str] = "filter"

    samples: tuple[str, ...] = argument((), FILES, "FILE|-")
    min_reward: float | None = setting(
        None, "Keep rewards of at least R.", "Selection", metavar="R", shown="no threshold"
    )
    dedup: Literal["text", "equations", "none"] = setting(
        "text", "Keep one of each solution: by text, or chain of equations.", "Selection"
    )
    per_question: int | None = setting(None, "Keep at most N per question.", "Selection", shown="all", bounds=(1, None))


@dataclass(frozen=True, kw_only=True)
class EvalSettings(OutputSettings, BadLineSettings):
    STAGE: ClassVar[str] = "eval"

    scored: tuple[str, ...] = argument((), FILES, "FILE|-")
    labels: tuple[str, ...] = setting(
        (), "A label for the metrics record; may be repeated.", "Metrics", "--set", metavar="NAME=VALUE"
    )
    seed: int = setting(0, "Seed of the bootstrap.", "Metrics", bounds=(0, None))


@dataclass(frozen=True, kw_only=True)
class ReportSettings(OutputSettings):
    STAGE: ClassVar[str] = "report"

    metrics: tuple[str, ...] = argument((), "Metrics records of `reasonrl eval`; default: stdin.", "METRICS|-")
    output: str = setting(
        "report", "Write report.md and the plots here.", "Output", "", "-o", metavar="DIR", role="manner"
    )
    x: str = setting("round", "The label that runs along the plots.", "Metrics", metavar="LABEL")
    metric: tuple[str, ...] = setting(
        (), "Only this metric, such as maj@1 or unique_solutions, in table and plots; may be repeated.", "Metrics",
        metavar="NAME", shown="k = 1, the largest k, and the counts",
    )  # fmt: skip
    against: tuple[str, ...] = setting(
        (), "Add a table of differences to the row with these labels, paired by seed; may be repeated.", "Metrics",
        metavar="LABEL=VALUE[,…]",
    )  # fmt: skip
    title: str = setting("Results", "The report's heading.", "Metrics")
