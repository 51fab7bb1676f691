"""The stages that train."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from reasonrl.errors import UsageError
from reasonrl.settings.declare import PRESET, argument, setting
from reasonrl.settings.records import FILES
from reasonrl.settings.shared import (
    ModelSettings,
    ProblemSettings,
    PromptSettings,
    RecordTrainerSettings,
    RewardSettings,
    StopSettings,
    TrainerSettings,
)


@dataclass(frozen=True, kw_only=True)
class SftSettings(RecordTrainerSettings, StopSettings, ModelSettings):
    """The paper's SFT, but for the preset `tiny`."""

    STAGE: ClassVar[str] = "sft"

    records: tuple[str, ...] = argument((), FILES, "FILE|-")


@dataclass(frozen=True, kw_only=True)
class OrmSettings(RecordTrainerSettings, PromptSettings, ModelSettings):
    STAGE: ClassVar[str] = "orm"

    scored: tuple[str, ...] = argument((), FILES, "FILE|-")
    prefixes: Literal["all", "final"] = setting("all", "Learn at every step's end, or at the last only.", "Loss")
    lm_weight: float = setting(
        0.0, "Go on learning to write right solutions, with this weight.", "Loss", metavar="W", bounds=(0, None)
    )
    share_prompts: bool = setting(False, "Read each question once for all its solutions: faster.", "Loss")
    held_out: float = setting(
        0.1, "Fraction of the questions kept for evaluation.", "Records", metavar="F", bounds=(0, 0.9)
    )
    lora_layers: int | None = setting(
        None, "Adapt the last N layers only: faster.", "Optimiser", shown="all", bounds=(1, None)
    )


@dataclass(frozen=True, kw_only=True)
class PpoSettings(TrainerSettings, RewardSettings, StopSettings, ModelSettings, ProblemSettings):
    STAGE: ClassVar[str] = "ppo"

    samples: int = setting(PRESET, "Rollouts in all.", "Rollouts", bounds=(1, None))
    batch_size: int = setting(PRESET, "Rollouts per update.", "Rollouts", bounds=(1, None))
    k: int = setting(PRESET, "Rollouts per question.", "Rollouts", "", "-k", bounds=(1, None))
    temperature: float = setting(1.0, "Sampling temperature.", "Rollouts", bounds=(0, None))
    max_tokens: int = setting(256, "New tokens per rollout.", "Rollouts", bounds=(1, None))
    missing_eos_penalty: float = setting(
        0.0, "What a completion that ran out of tokens pays; it earns nothing.", "Reward", bounds=(0, None)
    )
    kl: float = setting(0.05, "Coefficient β of the KL to the initial policy.", "Reward", bounds=(0, None))
    kl_limit: float = setting(
        2.0, "Stop where KL exceeds this many nats per token; 0: never.", "Reward", bounds=(0, None)
    )
    advantage: Literal["gae", "grpo", "rloo"] = setting(
        "gae", "gae: with a critic; grpo, rloo: against the question's other samples.", "Loss"
    )
    gamma: float = setting(1.0, "Discount γ per token.", "Loss", bounds=(0, 1))
    lam: float = setting(0.95, "λ of GAE.", "Loss", bounds=(0, 1))
    clip_range: float = setting(0.2, "ε of the policy's probability ratio.", "Loss", bounds=(0, None))
    entropy_coefficient: float = setting(0.0, "Weight of an entropy bonus.", "Loss", bounds=(0, None))
    critic: Literal["shared", "separate"] = setting(
        "shared", "A head on the policy's trunk, or a model of its own.", "Critic"
    )
    value_clip: float = setting(0.2, "How far a value may move in an update.", "Critic", bounds=(0, None))
    value_coefficient: float = setting(0.1, "Weight of the value loss.", "Critic", bounds=(0, None))
    critic_warmup: int = setting(
        1, "Updates that teach the critic only.", "Critic", metavar="UPDATES", bounds=(0, None)
    )
    epochs: int = setting(PRESET, "Passes over an update's rollouts.", "Optimiser", bounds=(1, None))
    minibatches: int = setting(4, "Gradient updates per pass.", "Optimiser", bounds=(1, None))
    save_every: int = setting(
        10, "Save state for --resume.", "Checkpoints", metavar="UPDATES", bounds=(1, None), role="manner"
    )
    keep_every: int = setting(
        0, "Keep checkpoints OUT-N on the way; 0: none.", "Checkpoints", metavar="UPDATES", bounds=(0, None),
        role="manner",
    )  # fmt: skip
    log_with: str | None = setting(
        None, "Also log to tensorboard, wandb, trackio, … through accelerate.", "Output", metavar="TRACKER",
        role="manner",
    )  # fmt: skip

    @property
    def updates(self) -> int:
        return max(1, round(self.samples / self.batch_size))

    @property
    def questions_per_update(self) -> int:
        return self.batch_size // self.k

    def check_world(self, world: int) -> None:
        """Raises UsageError for sizes that do not fit together, or not `world` processes."""
        if self.batch_size % self.k:
            raise UsageError(f"--batch-size {self.batch_size} is no multiple of --k {self.k}")
        if self.questions_per_update % world or self.batch_size // world < self.minibatches:
            raise UsageError(
                f"--batch-size {self.batch_size}: {self.questions_per_update} questions cannot be dealt out to {world} "
                f"processes and {self.minibatches} minibatches"
            )
        if self.advantage != "gae" and self.k < 2:
            raise UsageError(f"--advantage {self.advantage} compares samples of one question: give --k 2 or more")


@dataclass(frozen=True, kw_only=True)
class RcrlSettings(RecordTrainerSettings, RewardSettings, StopSettings, ModelSettings, ProblemSettings):
    STAGE: ClassVar[str] = "rcrl"

    limit: int | None = setting(None, "Take only the first N.", "Problems", shown="all", bounds=(1, None))
    base: str = setting(
        "tiny", "The weights to fine-tune.", "Model", metavar="M", shown="$REASONRL_MODEL or tiny", role="reads",
        env="REASONRL_MODEL",
    )  # fmt: skip
    data: tuple[str, ...] = setting(
        (), "Start from records labelled before; may be repeated.", "Labels", metavar="FILE", role="reads"
    )
    save_data: str | None = setting(
        None, "Keep the labelled records here; without -o, do no more.", "Labels", metavar="FILE"
    )
    solutions: int = setting(4, "Solutions per problem.", "Labels", bounds=(1, None))
    k: int = setting(8, "Completions of each prefix of a solution.", "Labels", "", "-k", bounds=(1, None))
    threshold: float | None = setting(None, "A step is good if its value is at least this.", "Labels", shown="0.5")
    labels: Literal["text", "tokens"] = setting(
        "text", "Labels as plain text, or as two new tokens of the vocabulary.", "Labels"
    )
    temperature: float = setting(1.0, "Sampling temperature.", "Labels", bounds=(0, None))
    max_tokens: int = setting(256, "New tokens per solution.", "Labels", bounds=(1, None))
