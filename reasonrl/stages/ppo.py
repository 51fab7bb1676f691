"""`reasonrl ppo`: rollouts, rewards and updates in one process."""

from contextlib import closing
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from reasonrl import console, provenance
from reasonrl.errors import UsageError
from reasonrl.rewards.named import Means, choices
from reasonrl.stages import flags, score, training
from reasonrl.stages.sample import MaxTokens, Problems, Prompt, Stop, Temperature
from reasonrl.tasks import source
from reasonrl.tasks.own import reading
from reasonrl.tasks.prompts import own_form, prompt_form


class Advantage(StrEnum):
    gae = "gae"
    grpo = "grpo"
    rloo = "rloo"


class Critic(StrEnum):
    shared = "shared"
    separate = "separate"


def _number(name: str, help: str, **more):
    return typer.Option(name, help=help, **more)


Samples = Annotated[int | None, _number("--samples", "Rollouts in all.", min=1, show_default="preset")]
BatchSize = Annotated[int | None, _number("--batch-size", "Rollouts an update.", min=1, show_default="preset")]
K = Annotated[int | None, typer.Option("--k", "-k", min=1, help="Rollouts a question.", show_default="preset")]
Epochs = Annotated[int | None, _number("--epochs", "Passes over an update's rollouts.", min=1, show_default="preset")]
Minibatches = Annotated[int, _number("--minibatches", "Optimiser steps a pass.", min=1)]
AdvantageFlag = Annotated[
    Advantage, typer.Option("--advantage", help="gae: with a critic; grpo, rloo: against a question's other samples.")
]
CriticFlag = Annotated[Critic, typer.Option("--critic", help="A head on the policy's trunk, or a model of its own.")]
Kl = Annotated[float, _number("--kl", "Coefficient of the KL to the initial policy.", min=0)]
KlLimit = Annotated[float, _number("--kl-limit", "Stop where KL exceeds this many nats a token; 0: never.", min=0)]
Gamma = Annotated[float, _number("--gamma", "Discount a token.", min=0, max=1)]
Lam = Annotated[float, _number("--lam", "GAE's λ.", min=0, max=1)]
ClipRange = Annotated[float, _number("--clip-range", "ε of the policy's probability ratio.", min=0)]
ValueClip = Annotated[float, _number("--value-clip", "How far a value may move an update.", min=0)]
ValueCoefficient = Annotated[float, _number("--value-coefficient", "Weight of the value loss.", min=0)]
EntropyCoefficient = Annotated[float, _number("--entropy-coefficient", "Weight of an entropy bonus.", min=0)]
CriticWarmup = Annotated[int, _number("--critic-warmup", "Updates that teach the critic only.", min=0)]
MissingEos = Annotated[
    float, _number("--missing-eos-penalty", "What a completion that ran out of tokens pays; it earns nothing.", min=0)
]
SaveEvery = Annotated[int, typer.Option("--save-every", min=1, metavar="UPDATES", help="Save state for --resume.")]
KeepEvery = Annotated[
    int, typer.Option("--keep-every", min=0, metavar="UPDATES", help="Keep checkpoints OUT-N on the way; 0: none.")
]
LogWith = Annotated[
    str | None,
    typer.Option("--log-with", metavar="TRACKER", help="Also log to tensorboard, wandb, trackio, … through accelerate.",
                 show_default=False),
]  # fmt: skip


def ppo(
    problems: Problems = None,
    task: flags.Task = None,
    split: flags.SplitName = flags.Split.train,
    limit: flags.Limit = None,
    path: flags.Path = None,
    model: flags.Model = "tiny",
    output: flags.Checkpoint = "",
    reward: score.RewardFlag = None,
    weight: score.Weight = None,
    answer: flags.AnswerFlag = flags.Answer.strict,
    orm: score.Orm = "tiny-orm",
    preset: training.PresetFlag = training.Preset.auto,
    samples: Samples = None,
    batch_size: BatchSize = None,
    k: K = None,
    epochs: Epochs = None,
    minibatches: Minibatches = 4,
    advantage: AdvantageFlag = Advantage.gae,
    critic: CriticFlag = Critic.shared,
    kl: Kl = 0.05,
    kl_limit: KlLimit = 2.0,
    gamma: Gamma = 1.0,
    lam: Lam = 0.95,
    clip_range: ClipRange = 0.2,
    value_clip: ValueClip = 0.2,
    value_coefficient: ValueCoefficient = 0.1,
    entropy_coefficient: EntropyCoefficient = 0.0,
    critic_warmup: CriticWarmup = 1,
    missing_eos_penalty: MissingEos = 0.0,
    temperature: Temperature = 1.0,
    max_tokens: MaxTokens = 256,
    stop: Stop = None,
    prompt: Prompt = None,
    lr: training.LearningRate = None,
    final_lr: training.FinalRate = None,
    warmup: training.Warmup = 0.03,
    weight_decay: training.WeightDecay = 0.0,
    clip: training.Clip = 1.0,
    lora_rank: training.LoraRank = 0,
    seed: flags.Seed = 0,
    timeout: score.Timeout = 60.0,
    batch_tokens: flags.BatchTokens = None,
    gradient_checkpointing: training.Checkpointing = False,
    save_every: SaveEvery = 10,
    keep_every: KeepEvery = 0,
    log_with: LogWith = None,
    device: flags.Device = None,
    dtype: flags.DType = flags.Precision.auto,
    attn: flags.Attention = None,
    force: flags.Force = False,
    resume: flags.Resume = False,
) -> None:
    """Train a policy by PPO, GRPO or RLOO; print the checkpoint's path.

    Draws rollouts of the task's problems, judges them as `score` does, and improves the policy on them, with a KL
    penalty to the policy it started from. metrics.jsonl in the checkpoint has a line an update; docs/ppo.md explains
    every number. Several processes: accelerate launch -m reasonrl ppo --task T -o DIR.

    \b
    Examples:
      reasonrl ppo --task mini -o runs/ppo
      reasonrl ppo --task mini --reward exact --reward dense --weight dense=0.5 -o runs/ppo-dense
      reasonrl ppo --task gsm8k --model ./smollm2 --lora-rank 16 --advantage grpo --k 8 --lr 1e-5 -o runs/grpo
      checkpoint=$(reasonrl ppo --task mini -o runs/ppo --resume)
    """
    if temperature == 0:
        raise UsageError("--temperature 0 draws one and the same solution again and again: nothing to learn from")
    chosen = choices(reward or ["exact"], weight or [])
    training.refuse_conditional(model, "--model", "rollouts are drawn without; take the policy before rcrl")
    target, is_main = training.begin_fused(problems or [], task, output, force=force, resume=resume)
    asked, readers = source.problems(problems or [], task, split.value, limit, path=path)
    provenance.has_read(readers)

    from reasonrl.models import checkpoint
    from reasonrl.models.policy import load_policy
    from reasonrl.rewards.judge import Judge
    from reasonrl.training.loop import Optimisation
    from reasonrl.training.ppo import Settings, train

    if not is_main:
        console.set_up("ppo", quiet=True)
    preset = training.choose(preset, model)
    if preset is training.Preset.paper:
        settings = Settings()
    else:
        settings = Settings(samples=24_576, epochs=2, optimisation=Optimisation(learning_rate=3e-4))
    lr = lr if lr is not None else settings.optimisation.learning_rate
    settings = replace(
        settings,
        samples=samples or settings.samples, batch_size=batch_size or settings.batch_size, k=k or settings.k,
        epochs=epochs or settings.epochs, minibatches=minibatches, advantage=advantage.value, critic=critic.value,
        optimisation=Optimisation(lr, lr / 100 if final_lr is None else final_lr, warmup, weight_decay, clip),
        kl=kl, kl_limit=kl_limit, gamma=gamma, lam=lam, clip=clip_range, value_clip=value_clip,
        value_coefficient=value_coefficient, entropy_coefficient=entropy_coefficient, critic_warmup=critic_warmup,
        missing_eos_penalty=missing_eos_penalty, temperature=temperature, max_tokens=max_tokens,
        batch_tokens=batch_tokens, lora_rank=lora_rank, gradient_checkpointing=gradient_checkpointing,
        save_every=save_every, keep_every=keep_every, seed=seed,
    )  # fmt: skip

    held = training.held_in(dtype, lora_rank)
    policy = load_policy(model, device="cpu" if device == "cpu" else None, dtype=held, attn=attn)
    form = prompt_form(prompt, stop, checkpoint.prompt_form(policy.directory) or own_form(task))
    means = Means(orm, device, flags.Precision.fp32.value, batch_tokens, timeout)
    with closing(Judge(chosen, means, answer == flags.Answer.flexible, reading(task))) as judge:
        console.log(
            f"{settings.updates} updates of {settings.batch_size} rollouts ({settings.k} a question), "
            f"{len(asked)} questions, {settings.epochs} epochs, learning rate {lr:g} ({preset.value})"
        )
        about = {
            "base": {"name": model, "directory": policy.directory},
            "preset": preset.value,
            "inputs": training.about_inputs(readers),
            "rewards": judge.about(),
        }
        train(
            policy, asked, judge, form, settings, target,
            device=device, dtype=dtype.value, log_with=log_with, about=about,
        )  # fmt: skip
    if is_main:
        print(output)
