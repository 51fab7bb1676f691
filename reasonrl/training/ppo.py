"""Proximal policy optimisation on verifiable rewards (Schulman et al. 2017, arXiv 1707.06347), token by token.

An update draws rollouts from the policy as it is, and takes `epochs` passes over them in `minibatches` steps each:

    gae:   r_t = verifier's reward at t − β (log π_old − log π_ref)_t,  A by GAE with a learnt value function, whitened
    rloo:  R = Σ verifier's rewards − β Σ (log π_old − log π_ref),  A = R − mean of the question's other samples
    grpo:  R = Σ verifier's rewards,  A = R whitened within its question;  β k3 stands in the loss instead

    loss = mean over tokens of  clipped policy loss + c · clipped value loss − e · entropy

The mean is over the tokens of the whole minibatch, all processes, whatever the microbatches. docs/ppo.md explains every
detail and every metric, with sources.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reasonrl import console
from reasonrl.console import Stopwatch
from reasonrl.errors import UsageError
from reasonrl.models import adapters
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.models.policy import Policy, check_output_layer
from reasonrl.records import Record
from reasonrl.rewards.judge import Judge
from reasonrl.sampling import Sampling
from reasonrl.sampling.hf import HFEngine
from reasonrl.tasks.prompts import PromptForm
from reasonrl.training import losses
from reasonrl.training.actor_critic import ActorCritic, Reference
from reasonrl.training.loop import Diverged, Loop, Optimisation, make_accelerator
from reasonrl.training.rollouts import Collector, Experience, Rollouts, score


@dataclass(frozen=True)
class Settings:
    """The paper's KL coefficient, and what PPO implementations for language models agree on (docs/ppo.md)."""

    samples: int = 100_000  # rollouts in all
    batch_size: int = 512  # rollouts an update
    k: int = 4  # rollouts a question
    epochs: int = 4  # passes over the rollouts of an update
    minibatches: int = 4  # optimiser steps a pass
    optimisation: Optimisation = Optimisation(learning_rate=3e-6, final_learning_rate=3e-8)
    advantage: str = "gae"
    critic: str = "shared"
    kl: float = 0.05  # β
    kl_limit: float = 2.0  # nats a token: beyond this the run has lost its initial policy; 0: no limit
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 0.1
    entropy_coefficient: float = 0.0
    critic_warmup: int = 1  # updates that teach the critic only
    missing_eos_penalty: float = 0.0
    temperature: float = 1.0
    max_tokens: int = 256
    batch_tokens: int | None = None
    lora_rank: int = 0
    gradient_checkpointing: bool = False
    save_every: int = 10
    keep_every: int = 0  # updates between checkpoints that stay; 0: none but the last
    seed: int = 0

    @property
    def updates(self) -> int:
        return max(1, round(self.samples / self.batch_size))

    def check(self, world: int) -> None:
        """Raises UsageError for settings that do not fit together."""
        if self.batch_size % self.k:
            raise UsageError(f"--batch-size {self.batch_size} is no multiple of --k {self.k}")
        if self.batch_size // self.k % world or self.batch_size // world < self.minibatches:
            raise UsageError(
                f"--batch-size {self.batch_size}: {self.batch_size // self.k} questions cannot be dealt out to {world} "
                f"processes and {self.minibatches} minibatches"
            )
        if self.advantage != "gae" and self.k < 2:
            raise UsageError(f"--advantage {self.advantage} compares samples of one question: give --k 2 or more")


def plan(count: int, settings: Settings) -> list[list[tuple[int, int]]]:
    """For each update its questions, as (index, how often it came before). Every epoch over the questions in a new
    order, and no question left out."""
    wanted = settings.batch_size // settings.k * settings.updates
    order: list[tuple[int, int]] = []
    for epoch in range(-(-wanted // count)):
        indices = list(range(count))
        random.Random(f"{settings.seed}/{epoch}").shuffle(indices)
        order += [(index, epoch) for index in indices]
    size = settings.batch_size // settings.k
    return [order[start : start + size] for start in range(0, wanted, size)]


def estimate_advantages(rollouts: Rollouts, settings: Settings, summed=lambda sums: sums) -> None:
    """Fills in `advantages` and `returns` of rollouts that have been scored. `summed` sums a tensor over processes."""
    mask = rollouts.mask
    penalty = settings.kl * losses.k1(rollouts.logprobs, rollouts.reference) * mask
    if settings.advantage == "gae":
        advantages, rollouts.returns = losses.gae(
            rollouts.rewards - penalty, rollouts.values, mask, settings.gamma, settings.lam
        )
        rollouts.advantages = losses.whiten(advantages, mask, summed)
        return
    earned = rollouts.scores().view(-1, settings.k)
    if settings.advantage == "rloo":
        of_sample = losses.rloo(earned - penalty.sum(1).view(-1, settings.k))
    else:
        of_sample = losses.grpo(earned)
    rollouts.advantages = of_sample.view(-1, 1) * mask
    rollouts.returns = torch.zeros_like(rollouts.rewards)


def step_loss(
    model: torch.nn.Module, part: Experience, settings: Settings, tokens: float, *, actor_learns: bool, sums: Counter
) -> torch.Tensor:
    """A microbatch's share of a minibatch's loss; `tokens` is how many the minibatch has. Adds to `sums`."""
    explore = settings.entropy_coefficient
    scored = model(part.input_ids, part.learnt, part.targets, entropies=bool(explore), trunk_learns=actor_learns)
    policy = losses.policy_loss(scored.logprobs, part.logprobs, part.advantages, settings.clip)
    found = {
        "policy_loss": policy.loss,
        "clip_fraction": policy.clipped.float(),
        "approx_kl": losses.k3(part.logprobs, scored.logprobs),
    }
    loss = policy.loss.sum() * actor_learns
    if settings.advantage == "grpo":
        loss = loss + settings.kl * losses.k3(scored.logprobs, part.reference).sum()
    if explore:
        loss = loss - explore * scored.entropies.sum() * actor_learns
    if scored.values is not None:
        value = losses.value_loss(scored.values, part.values, part.returns, settings.value_clip)
        loss = loss + settings.value_coefficient * value.loss.sum()
        found |= {"value_loss": value.loss, "value_clip_fraction": value.clipped.float()}
    for name, per_token in found.items():
        sums[name] += per_token.detach().sum()
    sums["tokens"] += len(part.targets)
    return loss / tokens


class Trainer:
    """One run: `train` below puts it together and takes it through its updates."""

    def __init__(
        self,
        policy: Policy,
        problems: Sequence[Record],
        judge: Judge,
        form: PromptForm,
        settings: Settings,
        checkpoint: Checkpoint,
        *,
        device: str | None,
        dtype: str,
        log_with: str | None,
        about: dict[str, Any],
    ):
        self.policy, self.problems, self.settings, self.checkpoint = policy, problems, settings, checkpoint
        self.accelerator = make_accelerator(device, dtype, log_with, checkpoint.partial)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        settings.check(self.world)
        check_output_layer(policy)
        if settings.keep_every:
            checkpoint.check_numbered(range(settings.keep_every, settings.updates, settings.keep_every))
        checkpoint.open()
        self.accelerator.wait_for_everyone()
        if log_with:
            self.accelerator.init_trackers("reasonrl-ppo", config={"model": policy.name, "seed": settings.seed})
        if settings.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
            policy.model.enable_input_require_grads()
        self.reference = Reference(policy, settings.lora_rank)
        critic = settings.critic if settings.advantage == "gae" else "none"
        self.actor = ActorCritic(policy, critic, settings.temperature, lora_rank=settings.lora_rank, seed=settings.seed)
        self.plan = plan(len(problems), settings)
        # An engine with a budget of its own: a token takes far more memory to learn than to draw. What the optimiser
        # will hold is left out of it, the same whether the run begins or goes on.
        learnable = sum(parameter.numel() for parameter in self.actor.parameters() if parameter.requires_grad)
        engine = HFEngine(policy, reserved=12 * learnable)  # bytes: a gradient and AdamW's two moments
        steps = settings.epochs * settings.minibatches
        self.loop = Loop(
            self.accelerator, self.actor, settings.optimisation, len(self.plan), checkpoint,
            settings.save_every, settings.seed, updates=steps,
        )  # fmt: skip
        self.loop.model.train()
        # On a CPU what a forward pass touches should stay in its caches, and small batches of like length pad little.
        self.most_tokens = settings.batch_tokens or (1 << 11 if self.accelerator.device.type == "cpu" else 1 << 15)
        sampling = Sampling(settings.k, settings.temperature, 1.0, settings.max_tokens, form.stop, settings.seed)
        self.collect = Collector(policy, engine, judge, form, sampling, settings.missing_eos_penalty)
        self.collect.check([problems[index] for index in sorted({index for step in self.plan for index, _ in step})])
        self.about = about | {
            "prompt": form.to_json(), "tokenizer": policy.tokenizer_hash, "processes": self.world
        }  # fmt: skip

    def run(self) -> None:
        with console.progress("training", total=len(self.plan)) as advance:
            for questions in self.loop.steps(self.plan):
                metrics = self.update(questions[self.rank :: self.world])
                self.loop.log(metrics)
                said = f"accuracy {metrics['accuracy']:.3f}, KL {metrics['kl_k3']:.4f}"
                advance(self.loop.step + 1, f"{said}, {metrics['samples']:,} samples")
                self._tell(metrics)

    def update(self, questions: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """One update of the policy on fresh rollouts of these questions. Returns what is logged of it."""
        settings, loop = self.settings, self.loop
        spent = Counter()
        watch = Stopwatch()
        with self.accelerator.autocast():
            rollouts = self.collect([self.problems[index] for index, _ in questions], [again for _, again in questions])
        spent["rollout"] = watch.seconds
        watch = Stopwatch()
        reference = lambda part: self.reference.logprobs(self.actor, part)
        with self.accelerator.autocast():
            score(rollouts, loop.model, reference, 2 * self.most_tokens, self.accelerator.device)
        estimate_advantages(rollouts, settings, loop.summed)
        metrics = self._of_rollouts(rollouts)
        self._check(metrics["kl_k1"], "the initial policy", metrics)
        self._keep()
        spent["score"] = watch.seconds
        watch = Stopwatch()
        metrics |= self._learn(rollouts)
        self._check(metrics["approx_kl"], "the one before it learnt", metrics)  # nobody draws behind the last update
        spent["update"] = watch.seconds
        passes = {"rollout": 1, "score": 1, "update": settings.epochs}
        for phase, seconds in spent.items():
            metrics[f"{phase}_tokens_per_second"] = round(metrics["tokens"] * passes[phase] / max(seconds, 1e-9))
        return metrics

    def _learn(self, rollouts: Rollouts) -> dict[str, float]:
        settings, loop = self.settings, self.loop
        warming_up = loop.step < settings.critic_warmup and self.actor.head is not None
        frozen = self.actor.actor_parameters() if warming_up else ()
        sums, norms = Counter(), []
        for epoch in range(settings.epochs):
            order = np.random.default_rng([settings.seed, loop.step, epoch, self.rank]).permutation(
                rollouts.mask.shape[0]
            )
            for rows in np.array_split(order, settings.minibatches):
                tokens = float(loop.summed(rollouts.mask[rows].sum().float()))
                groups = rollouts.by_length(rows.tolist(), self.most_tokens)
                parts = [Experience.of(rollouts, group) for group in groups]
                loss = lambda part, tokens=tokens: step_loss(
                    loop.model, part, settings, tokens, actor_learns=not warming_up, sums=sums
                )
                taken = loop.update(parts, loss, frozen)
                norms.append(taken["grad_norm"])
        found = self._means({name: value for name, value in sums.items() if name != "tokens"}, sums["tokens"])
        return found | {"grad_norm": float(np.mean(norms)), "learning_rate": taken["learning_rate"]}

    def _of_rollouts(self, rollouts: Rollouts) -> dict[str, Any]:
        """Metrics of a batch of rollouts, all processes together."""
        mask, count, tokens = rollouts.mask, len(rollouts.examples), rollouts.tokens
        judged = rollouts.judged
        of_samples = {
            "reward": rollouts.scores().sum(),
            "accuracy": sum(one.correct and not cut for one, cut in zip(judged, rollouts.truncated, strict=True)),
            **{f"reward_{name}": sum(one.rewards[name] for one in judged) for name in judged[0].rewards},
            "completion_length": tokens,
            "truncated": sum(rollouts.truncated),
            "unparseable": sum(not one.parseable for one in judged),
        }
        of_tokens = {
            "kl_k1": losses.k1(rollouts.logprobs, rollouts.reference)[mask].sum(),
            "kl_k3": losses.k3(rollouts.logprobs, rollouts.reference)[mask].sum(),
            "entropy": rollouts.entropies[mask].sum(),
        }
        if rollouts.drawn is not None and self.settings.temperature == 1:
            of_tokens["engine_gap"] = (rollouts.drawn - rollouts.logprobs)[mask].abs().sum()
        samples = (self.loop.step + 1) * self.settings.batch_size
        metrics = {"samples": samples, **self._means(of_samples, count), **self._means(of_tokens, tokens)}
        if self.actor.head is not None:
            metrics["explained_variance"] = losses.explained_variance(rollouts.values[mask], rollouts.returns[mask])
        return metrics | {"tokens": int(self.loop.summed(torch.tensor(float(tokens))))}

    def _means(self, sums: dict[str, Any], count: float) -> dict[str, float]:
        """Sums over this process's rollouts → means over those of all processes."""
        values = torch.tensor([*map(float, sums.values()), float(count)], dtype=torch.float64)
        *totals, number = self.loop.summed(values).tolist()
        return {name: total / number for name, total in zip(sums, totals, strict=True)}

    def _check(self, kl: float, other: str, metrics: dict[str, Any]) -> None:
        """Raises Diverged where the policy has left another one."""
        limit = self.settings.kl_limit or math.inf
        if not kl < limit:
            raise Diverged(
                f"KL has run away: {kl:.3g} nats a token from {other} at update {self.loop.step + 1}, "
                f"accuracy {metrics['accuracy']:.3f} (--kl-limit {limit:g}); try a smaller --lr or a larger --kl"
            )

    def _keep(self) -> None:
        """Checkpoints of the policy as it stands after `step` updates, now that its rollouts were seen to be good."""
        step, settings = self.loop.step, self.settings
        if step == 0 or not self.loop.is_main:
            return
        about = self.about | {"updates": step, "samples": step * settings.batch_size}
        if step % settings.save_every == 0:
            self.checkpoint.write_snapshot(self._save_policy, about)
        if settings.keep_every and step % settings.keep_every == 0:
            self.checkpoint.write_numbered(step, self._save_policy, about)

    def _save_policy(self, directory: Path) -> None:
        adapters.save(self.actor.policy, self.policy, directory, goes_on=True)

    def _tell(self, metrics: dict[str, Any]) -> None:
        """A line every tenth of the run, for who reads a log and not a terminal."""
        every = max(1, len(self.plan) // 10)
        if self.loop.step % every == every - 1 or self.loop.step + 1 == len(self.plan):
            console.log(
                f"{metrics['samples']:,} samples: reward {metrics['reward']:.3f}, accuracy {metrics['accuracy']:.3f}, "
                f"KL {metrics['kl_k3']:.4f}, entropy {metrics['entropy']:.2f}, truncated {metrics['truncated']:.1%}"
            )

    def finish(self) -> None:
        settings = self.settings
        trained = self.loop.finish().policy
        if self.loop.is_main:
            if settings.lora_rank == 0:
                trained.eval()
            adapters.save(trained, self.policy, self.checkpoint.partial)
            totals = {"updates": len(self.plan), "samples": len(self.plan) * settings.batch_size}
            self.checkpoint.finish(self.about | totals)
        self.accelerator.end_training()


def train(
    policy: Policy,
    problems: Sequence[Record],
    judge: Judge,
    form: PromptForm,
    settings: Settings,
    checkpoint: Checkpoint,
    *,
    device: str | None = None,
    dtype: str = "auto",
    log_with: str | None = None,
    about: dict[str, Any] | None = None,
) -> None:
    """Trains `policy` on `problems` and writes the finished checkpoint; `about` goes into its marker.

    Raises Diverged where the run went wrong; what it says names the last good checkpoint.
    """
    trainer = Trainer(
        policy, problems, judge, form, settings, checkpoint,
        device=device, dtype=dtype, log_with=log_with, about=about or {},
    )  # fmt: skip
    try:
        trainer.run()
    except Diverged as error:
        if not trainer.loop.is_main:
            raise
        good = checkpoint.release_snapshot()
        left = f"the last good checkpoint is {good}" if good else f"{policy.name} is the last good one (--save-every)"
        raise Diverged(f"{error}; {left}") from None
    trainer.finish()
