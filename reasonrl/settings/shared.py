"""Settings that several stages have: the same name and meaning everywhere."""

from dataclasses import dataclass
from typing import Literal

from reasonrl.settings import presets
from reasonrl.settings.declare import PRESET, StageSettings, argument, declared, setting

Answer = Literal["strict", "flexible"]
Precision = Literal["auto", "fp32", "bf16"]

MODEL_HELP = "Hub id, directory, adapter directory, .gguf file, or `tiny`."


@dataclass(frozen=True, kw_only=True)
class OutputSettings(StageSettings):
    """Of a stage that writes a file."""

    output: str = setting(
        "-", "Write here; `-` is stdout.", "Output", "", "-o", metavar="FILE", role="manner"
    )  # fmt: skip
    force: bool = setting(False, "Overwrite an existing output.", "Output", "", "-f", role="manner")
    resume: bool = setting(False, "Continue an interrupted run; keep a finished output.", "Output", role="manner")


@dataclass(frozen=True, kw_only=True)
class BadLineSettings(StageSettings):
    """Of a stage that reads records one by one."""

    on_error: Literal["fail", "skip"] = setting("fail", "What a bad input line does.", "Records", role="manner")
    rejects: str | None = setting(None, "Skip bad lines and put them here.", "Records", metavar="FILE", role="manner")


@dataclass(frozen=True, kw_only=True)
class TaskFileSettings(StageSettings):
    """Which part of a task."""

    split: Literal["train", "test"] = setting("train", "Which split of the task.", "Problems")
    limit: int | None = setting(None, "Take only the first N.", "Problems", shown="all", bounds=(1, None))
    path: str | None = setting(
        None, "Directory of the task's files.", "Problems", metavar="DIR", shown="$REASONRL_DATA"
    )


@dataclass(frozen=True, kw_only=True)
class ProblemSettings(TaskFileSettings):
    """Of a stage that works on problems."""

    problems: tuple[str, ...] = argument(
        (), "Problem files; default: --task, else stdin, else 16 of mini.", "PROBLEMS|-"
    )
    task: str | None = setting(
        None, "Problems of this task: mini, gsm8k, svamp, or a JSONL or Python file.", "Problems", metavar="TASK",
        role="reads",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelSettings(StageSettings):
    """Of a stage that loads a model."""

    model: str = setting(
        "tiny", MODEL_HELP, "Model", metavar="M", shown="$REASONRL_MODEL or tiny", role="reads", env="REASONRL_MODEL"
    )


@dataclass(frozen=True, kw_only=True)
class PromptSettings(StageSettings):
    """Of a stage that puts questions to a model."""

    prompt: str | None = setting(
        None, "plain, chat, a file with {question} in it, or a task's Python file.", "Model", metavar="FORM",
        shown="the checkpoint's, else plain", role="reads",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StopSettings(PromptSettings):
    """Of a stage whose model writes completions."""

    stop: tuple[str, ...] | None = setting(
        None, "End a completion before this text; may be repeated.", "Model", metavar="TEXT",
        shown="as the prompt form has it",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DeviceSettings(StageSettings):
    """Where a model runs."""

    batch_tokens: int | None = setting(
        None, "Tokens in memory at a time.", "Machine", shown="auto", bounds=(1, None), role="manner"
    )
    device: str | None = setting(
        None, "Where the model runs: cpu, cuda, cuda:1, or mps.", "Machine", metavar="D", shown="the best there is",
        role="manner",
    )  # fmt: skip
    dtype: Precision = setting("auto", "Precision. auto: bf16 on a GPU that has it, else fp32.", "Machine")


@dataclass(frozen=True, kw_only=True)
class MachineSettings(DeviceSettings):
    """Where a model runs, and with which attention."""

    attn: str | None = setting(
        None, "transformers' attention implementation.", "Machine", metavar="NAME", shown="sdpa", role="manner"
    )


@dataclass(frozen=True, kw_only=True)
class RewardSettings(StageSettings):
    """What a completion earns."""

    reward: tuple[str, ...] = setting(
        ("exact",), "exact, dense, orm, FILE.py:FUNCTION, or 'cmd:PROGRAM'; may be repeated.", "Reward",
        metavar="[NAME=]WHAT",
    )  # fmt: skip
    weight: tuple[str, ...] = setting(
        (), "The reward's weight in the sum, `reward`; may be repeated.", "Reward", metavar="NAME=W", shown="1 each"
    )
    answer: Answer = setting("strict", "strict: only a marked final answer; flexible: else the last number.", "Reward")
    orm: str = setting(
        "tiny-orm", "The outcome reward model: a checkpoint of `reasonrl orm`.", "Reward", metavar="M",
        shown="$REASONRL_ORM or tiny-orm", role="reads", env="REASONRL_ORM",
    )  # fmt: skip
    timeout: float = setting(
        60.0, "How long a reward of your own may be silent.", "Reward", metavar="SECONDS", bounds=(0.001, None),
        role="manner",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainerSettings(MachineSettings, OutputSettings):
    """Of a stage that trains. The presets' values are filled in where nothing else was given."""

    output: str = setting(
        "", "Write the checkpoint to this directory.", "Output", "", "-o", metavar="DIR", role="manner"
    )
    preset: Literal["auto", "paper", "tiny"] = setting(
        "auto", "Settings to start from. auto: tiny for the bundled model, else paper.", "Optimiser"
    )
    epochs: float = setting(PRESET, "Passes over the data.", "Optimiser", bounds=(0, None))
    batch_size: int = setting(PRESET, "Examples per update.", "Optimiser", bounds=(1, None))
    lr: float = setting(PRESET, "Peak learning rate.", "Optimiser", bounds=(0, None))
    final_lr: float | None = setting(
        None, "Learning rate at the end.", "Optimiser", shown="a hundredth of --lr", bounds=(0, None)
    )
    warmup: float = setting(0.03, "Fraction of the updates that warm up.", "Optimiser", bounds=(0, 1))
    weight_decay: float = setting(0.0, "AdamW's decoupled weight decay.", "Optimiser", bounds=(0, None))
    max_grad_norm: float = setting(1.0, "Clip the gradient to this norm; 0: do not.", "Optimiser", bounds=(0, None))
    lora_rank: int = setting(0, "Train a LoRA adapter of this rank; 0: all weights.", "Optimiser", bounds=(0, None))
    gradient_checkpointing: bool = setting(False, "Less memory, a third more time.", "Machine")
    seed: int = setting(0, "Seed of every random choice.", "Optimiser", bounds=(0, None))

    def __post_init__(self) -> None:
        if self.preset == "auto":
            object.__setattr__(self, "preset", "paper")
        values = presets.of_stage(self.STAGE)[self.preset]
        for name, one in declared(type(self)).items():
            if one.default is PRESET and getattr(self, name) is PRESET:
                object.__setattr__(self, name, values[name])
        super().__post_init__()

    @property
    def final_learning_rate(self) -> float:
        """Where the schedule ends."""
        return self.lr / 100 if self.final_lr is None else self.final_lr

    @property
    def weights_device(self) -> str | None:
        """Where the weights are loaded; None: on a GPU each process of `accelerate launch` takes its own."""
        return "cpu" if self.device == "cpu" else None

    @property
    def weights_dtype(self) -> Precision:
        """The precision of the weights. LoRA keeps its base frozen, so that may be held in the lower one; weights that
        learn are in fp32, whatever they are calculated with: in bf16 the updates of RL are too small to change them."""
        return self.dtype if self.lora_rank else "fp32"


@dataclass(frozen=True, kw_only=True)
class RecordTrainerSettings(TrainerSettings):
    """Of a stage that trains on records."""

    limit: int | None = setting(None, "Take only the first N.", "Records", shown="all", bounds=(1, None))
    max_length: int | None = setting(
        None, "Leave out longer examples.", "Records", shown="the context", bounds=(2, None)
    )
    save_every: int = setting(
        200, "Save state for --resume.", "Checkpoints", metavar="UPDATES", bounds=(1, None), role="manner"
    )
