"""Proximal policy optimisation on verifiable rewards (Schulman et al. 2017, arXiv 1707.06347), token by token.

An update draws rollouts from the policy as it is, and takes `epochs` passes over them in `minibatches` gradient updates
each:

    gae:   r_t = verifier's reward at t − β (log π_old − log π_ref)_t,  A by GAE with a learned value function, whitened
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
from reasonrl.io.records import Record
from reasonrl.models import adapters
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.models.language_model import LanguageModel, check_output_layer
from reasonrl.prompts import PromptForm
from reasonrl.rewards.scorer import RewardScorer
from reasonrl.sampling.hf.engine import HFEngine
from reasonrl.settings import PpoSettings, limits
from reasonrl.training import losses
from reasonrl.training.loop import Diverged, Loop, enable_gradient_checkpointing, make_accelerator
from reasonrl.training.ppo.actor_critic import ActorCritic, Reference
from reasonrl.training.ppo.rollouts import (
    Collector,
    EvaluatedRollouts,
    Experience,
    ExperienceBatch,
    estimate,
    evaluate,
)

Question = tuple[int, int]
"""The index of a problem, and how often it came before."""


def question_order(count: int, settings: PpoSettings) -> list[list[Question]]:
    """For each update its questions. Every epoch over the `count` questions in a new order, no question left out."""
    size = settings.questions_per_update
    needed = size * settings.updates
    order: list[Question] = []
    for epoch in range(-(-needed // count)):
        indices = list(range(count))
        random.Random(f"{settings.seed}/{epoch}").shuffle(indices)
        order += [(index, epoch) for index in indices]
    return [order[start : start + size] for start in range(0, needed, size)]


def minibatch_loss(
    model: torch.nn.Module,
    part: ExperienceBatch,
    settings: PpoSettings,
    tokens: float,
    *,
    actor_learns: bool,
    sums: dict[str, Any],
) -> torch.Tensor:
    """A microbatch's share of a minibatch's loss; `tokens` is how many the minibatch has. Adds to `sums`."""
    explore = settings.entropy_coefficient
    evaluation = model(part.input_ids, part.loss_mask, part.targets, entropies=bool(explore), trunk_learns=actor_learns)
    policy = losses.policy_loss(evaluation.logprobs, part.logprobs, part.advantages, settings.clip_range)
    per_token = {
        "policy_loss": policy.loss,
        "clip_fraction": policy.clipped.float(),
        "approx_kl": losses.k3(part.logprobs, evaluation.logprobs),
    }
    loss = policy.loss.sum() * actor_learns
    if settings.advantage == "grpo":
        loss = loss + settings.kl * losses.k3(evaluation.logprobs, part.reference_logprobs).sum()
    if explore:
        loss = loss - explore * evaluation.entropies.sum() * actor_learns
    if evaluation.values is not None:
        value = losses.value_loss(evaluation.values, part.values, part.returns, settings.value_clip)
        loss = loss + settings.value_coefficient * value.loss.sum()
        per_token |= {"value_loss": value.loss, "value_clip_fraction": value.clipped.float()}
    for name, values in per_token.items():
        sums[name] += values.detach().sum()
    sums["tokens"] += len(part.targets)
    return loss / tokens


@dataclass
class Trainer:
    """One run, whose parts `build` puts together. max_tokens_per_batch: of one pass of learning."""

    policy: LanguageModel
    problems: Sequence[Record]
    settings: PpoSettings
    checkpoint: Checkpoint
    loop: Loop
    actor: ActorCritic
    reference: Reference
    collector: Collector
    questions: list[list[Question]]
    max_tokens_per_batch: int
    about: dict[str, Any]

    def run(self) -> None:
        with console.progress("training", total=len(self.questions)) as advance:
            for questions in self.loop.updates(self.questions):
                metrics = self.update(questions[self.loop.rank :: self.loop.world])
                self.loop.log(metrics)
                note = f"accuracy {metrics['accuracy']:.3f}, KL {metrics['kl_k3']:.4f}"
                advance(self.loop.done + 1, f"{note}, {metrics['samples']:,} samples")
                self._report(metrics)

    def update(self, questions: Sequence[Question]) -> dict[str, Any]:
        """One update of the policy on fresh rollouts of these questions: draw, grade, score, evaluate, estimate, learn.
        Returns what is logged of it."""
        seconds = {}
        watch = Stopwatch()
        with self.loop.accelerator.autocast():
            drawn = self.collector.draw(
                [self.problems[index] for index, _ in questions], [epoch for _, epoch in questions]
            )
        scored = self.collector.score(self.collector.grade(drawn))
        seconds["rollout"] = watch.seconds

        watch = Stopwatch()
        with self.loop.accelerator.autocast():
            evaluated = evaluate(
                scored, self.loop.model, self._reference_logprobs, 2 * self.max_tokens_per_batch,
                self.loop.accelerator.device,
            )  # fmt: skip
        experience = estimate(evaluated, self.settings, self.loop.summed)
        metrics = self._metrics(experience)
        self._check(metrics["kl_k1"], "the initial policy", metrics)
        self._keep_checked_policy()
        seconds["evaluate"] = watch.seconds

        watch = Stopwatch()
        metrics |= self._learn(experience)
        # The last update has no later rollouts whose KL would catch this.
        self._check(metrics["approx_kl"], "the one before it learned", metrics)
        seconds["update"] = watch.seconds
        passes = {"rollout": 1, "evaluate": 1, "update": self.settings.epochs}
        for phase, taken in seconds.items():
            metrics[f"{phase}_tokens_per_second"] = round(metrics["tokens"] * passes[phase] / max(taken, 1e-9))
        return metrics

    def _reference_logprobs(self, batch: Any) -> torch.Tensor:
        return self.reference.logprobs(self.actor, batch)

    def _learn(self, experience: Experience) -> dict[str, float]:
        """All passes over the experience. Returns the means of what the losses log."""
        settings, loop = self.settings, self.loop
        warming_up = loop.done < settings.critic_warmup and self.actor.head is not None
        frozen = self.actor.actor_parameters() if warming_up else ()
        sums: Counter = Counter()
        norms = []
        for epoch in range(settings.epochs):
            dice = np.random.default_rng([settings.seed, loop.done, epoch, loop.rank])
            for rows in np.array_split(dice.permutation(len(experience.examples)), settings.minibatches):
                tokens = float(loop.summed(experience.mask[rows].sum().float()))
                groups = experience.by_length(rows.tolist(), self.max_tokens_per_batch)
                parts = [experience.microbatch(group) for group in groups]
                loss = lambda part, tokens=tokens: minibatch_loss(
                    loop.model, part, settings, tokens, actor_learns=not warming_up, sums=sums
                )
                taken = loop.gradient_update(parts, loss, frozen)
                norms.append(taken["grad_norm"])
        means = self._means({name: value for name, value in sums.items() if name != "tokens"}, sums["tokens"])
        return means | {"grad_norm": float(np.mean(norms)), "learning_rate": taken["learning_rate"]}

    def _metrics(self, experience: Experience) -> dict[str, Any]:
        """Metrics of a batch of rollouts, all processes together."""
        mask, count, tokens = experience.mask, len(experience.examples), experience.tokens
        samples = (self.loop.done + 1) * self.settings.batch_size
        metrics = {"samples": samples} | self._means(_of_samples(experience), count)
        metrics |= self._means(_of_tokens(experience, self.settings.temperature), tokens)
        if self.actor.head is not None:
            metrics["explained_variance"] = losses.explained_variance(experience.values[mask], experience.returns[mask])
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
                f"KL has run away: {kl:.3g} nats per token from {other} at update {self.loop.done + 1}, "
                f"accuracy {metrics['accuracy']:.3f} (--kl-limit {limit:g}); try a smaller --lr or a larger --kl"
            )

    def _keep_checked_policy(self) -> None:
        """Checkpoints of the policy as the updates so far have left it. It is kept in the update after, once its
        rollouts have shown that it is good."""
        done, settings = self.loop.done, self.settings
        if done == 0 or not self.loop.is_main:
            return
        about = self.about | {"updates": done, "samples": done * settings.batch_size}
        if done % settings.save_every == 0:
            self.checkpoint.write_snapshot(self._save_policy, about)
        if settings.keep_every and done % settings.keep_every == 0:
            self.checkpoint.write_numbered(done, self._save_policy, about)

    def _save_policy(self, directory: Path) -> None:
        adapters.save(self.actor.policy, self.policy, directory, goes_on=True)

    def _report(self, metrics: dict[str, Any]) -> None:
        """A line every tenth of the run, for who reads a log and not a terminal."""
        every = max(1, len(self.questions) // 10)
        if self.loop.done % every == every - 1 or self.loop.done + 1 == len(self.questions):
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
            totals = {"updates": len(self.questions), "samples": len(self.questions) * settings.batch_size}
            self.checkpoint.finish(self.about | totals)
        self.loop.accelerator.end_training()


def _of_samples(experience: Experience) -> dict[str, Any]:
    """Sums over the rollouts."""
    whole = zip(experience.correct, experience.truncated, strict=True)
    names = experience.scores[0].results
    return {
        "reward": experience.returns_of_samples.sum(),
        "accuracy": sum(correct and not truncated for correct, truncated in whole),
        **{f"reward_{name}": sum(score.results[name].reward for score in experience.scores) for name in names},
        "completion_length": experience.tokens,
        "truncated": sum(experience.truncated),
        "unparseable": sum(not parseable for parseable in experience.parseable),
    }


def _of_tokens(rollouts: EvaluatedRollouts, temperature: float) -> dict[str, Any]:
    """Sums over their tokens."""
    mask = rollouts.mask
    sums = {
        "kl_k1": losses.k1(rollouts.logprobs, rollouts.reference_logprobs)[mask].sum(),
        "kl_k3": losses.k3(rollouts.logprobs, rollouts.reference_logprobs)[mask].sum(),
        "entropy": rollouts.entropies[mask].sum(),
    }
    if rollouts.rollout_logprobs is not None and temperature == 1:
        sums["sampler_logprob_gap"] = (rollouts.rollout_logprobs - rollouts.logprobs)[mask].abs().sum()
    return sums


def build(
    policy: LanguageModel,
    problems: Sequence[Record],
    scorer: RewardScorer,
    form: PromptForm,
    settings: PpoSettings,
    checkpoint: Checkpoint,
    about: dict[str, Any],
) -> Trainer:
    """The parts of a run, checked against each other before anything is drawn; `about` goes into the checkpoint's
    marker."""
    accelerator = make_accelerator(settings.device, settings.dtype, settings.log_with, checkpoint.partial)
    settings.check_world(accelerator.num_processes)
    check_output_layer(policy)
    if settings.keep_every:
        checkpoint.check_numbered(range(settings.keep_every, settings.updates, settings.keep_every))
    checkpoint.open()
    accelerator.wait_for_everyone()
    if settings.log_with:
        accelerator.init_trackers("reasonrl-ppo", config={"model": policy.name, "seed": settings.seed})
    if settings.gradient_checkpointing:
        enable_gradient_checkpointing(policy.model)
    reference = Reference(policy, settings.lora_rank)  # before the policy gets an adapter
    critic = settings.critic if settings.advantage == "gae" else "none"
    actor = ActorCritic(policy, critic, settings.temperature, lora_rank=settings.lora_rank, seed=settings.seed)
    # An engine with a budget of its own: a token takes far more memory to learn than to draw. What the optimiser will
    # hold is left out of it, the same whether the run begins or continues.
    learnable = sum(parameter.numel() for parameter in actor.parameters() if parameter.requires_grad)
    engine = HFEngine(policy, reserved=12 * learnable)  # bytes: a gradient and AdamW's two moments
    updates = question_order(len(problems), settings)
    loop = Loop(accelerator, actor, settings, len(updates), checkpoint, settings.epochs * settings.minibatches)
    loop.model.train()
    collector = Collector(policy, engine, scorer, form, settings)
    collector.check([problems[index] for index in sorted({index for update in updates for index, _ in update})])
    on_cpu = accelerator.device.type == "cpu"
    about = about | {
        "prompt": form.to_json(), "tokenizer": policy.tokenizer_hash, "processes": accelerator.num_processes
    }  # fmt: skip
    return Trainer(
        policy=policy, problems=problems, settings=settings, checkpoint=checkpoint, loop=loop, actor=actor,
        reference=reference, collector=collector, questions=updates, about=about,
        max_tokens_per_batch=settings.batch_tokens or (limits.CPU_PPO_TOKENS if on_cpu else limits.GPU_PPO_TOKENS),
    )  # fmt: skip


def train(trainer: Trainer) -> None:
    """Takes a run through its updates and writes the finished checkpoint.

    Raises Diverged where the run went wrong; its message names the last good checkpoint.
    """
    try:
        trainer.run()
    except Diverged as error:
        if not trainer.loop.is_main:
            raise
        good, start = trainer.checkpoint.release_snapshot(), trainer.policy.name
        left = f"the last good checkpoint is {good}" if good else f"{start} is the last good one (--save-every)"
        raise Diverged(f"{error}; {left}") from None
    trainer.finish()
