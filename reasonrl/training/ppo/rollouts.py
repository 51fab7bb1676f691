"""Rollouts: drawn from the current policy, graded, scored, evaluated by the trainer, and made into experience.

Each is a value that is made whole from the one before. The engine draws, but its log-probabilities are not trained on:
the trainer evaluates its own, at the sampling temperature, since the two may differ in precision and kernels. How far
they are apart is logged.

All tensors are (B, T): B completions of at most T tokens, on the CPU, zero where `mask` is false.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch

from reasonrl import console
from reasonrl.grading.steps import step_ends
from reasonrl.io.records import Record
from reasonrl.models.batching import batches_by_length
from reasonrl.models.language_model import LanguageModel
from reasonrl.prompts import PromptForm
from reasonrl.rewards.scorer import RewardScorer, Score
from reasonrl.sampling.types import Completion, Engine, Request, Sampling
from reasonrl.settings import PpoSettings
from reasonrl.training import losses
from reasonrl.training.batching import Example, Microbatch, collate
from reasonrl.training.ppo.actor_critic import Evaluation


@dataclass(frozen=True)
class DrawnRollouts:
    """Completions, those of one question together. records: samples, with the fields of their problems.

    mask: (B, T) bool, by length, never by token value. rollout_logprobs: the engine's own, at temperature 1; None where
    it does not give them.
    """

    records: list[Record]
    completions: list[Completion]
    examples: list[Example]
    mask: torch.Tensor
    rollout_logprobs: torch.Tensor | None

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())

    @property
    def truncated(self) -> list[bool]:
        return [completion.finish == "length" for completion in self.completions]

    def by_length(self, rows: Sequence[int], max_tokens_per_batch: int) -> Iterator[list[int]]:
        """Rows of similar length together, as many as fit, padding included."""
        for batch in batches_by_length([len(self.examples[row]) for row in rows], max_tokens_per_batch):
            yield [rows[index] for index in batch]


@dataclass(frozen=True)
class GradedRollouts(DrawnRollouts):
    """correct: (B,) whether the final answer is right. parseable: whether there was one to read."""

    correct: list[bool]
    parseable: list[bool]


@dataclass(frozen=True)
class ScoredRollouts(GradedRollouts):
    """rewards: (B, T) what the rewards pay, at the tokens where they pay it."""

    scores: list[Score]
    rewards: torch.Tensor

    @property
    def returns_of_samples(self) -> torch.Tensor:
        """(B,) what each completion was paid in all."""
        return self.rewards.sum(1)


@dataclass(frozen=True)
class EvaluatedRollouts(ScoredRollouts):
    """What the policy (logprobs, entropies), its value function (values) and the initial policy (reference_logprobs)
    say of each token: nats, at the sampling temperature. values are zero without a critic."""

    logprobs: torch.Tensor
    entropies: torch.Tensor
    values: torch.Tensor
    reference_logprobs: torch.Tensor


@dataclass(frozen=True)
class Experience(EvaluatedRollouts):
    """What PPO learns from."""

    advantages: torch.Tensor
    returns: torch.Tensor

    def microbatch(self, rows: list[int]) -> "ExperienceBatch":
        batch, mask = collate([self.examples[row] for row in rows]), self.mask[rows]
        names = ("logprobs", "reference_logprobs", "values", "advantages", "returns")
        per_token = (getattr(self, name)[rows][mask] for name in names)
        return ExperienceBatch(batch.input_ids, batch.loss_mask, batch.targets, *per_token)


@dataclass(frozen=True)
class ExperienceBatch(Microbatch):
    """A microbatch of rollouts with what PPO's losses take of its N tokens, each (N,)."""

    logprobs: torch.Tensor
    reference_logprobs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    def to(self, device: torch.device) -> "ExperienceBatch":
        return ExperienceBatch(*(getattr(self, column.name).to(device) for column in fields(self)))


class Collector:
    """Draws rollouts of questions from the policy as it is now, and has them graded and scored."""

    def __init__(
        self, policy: LanguageModel, engine: Engine, scorer: RewardScorer, form: PromptForm, settings: PpoSettings
    ):
        self.policy, self.engine, self.scorer, self.form = policy, engine, scorer, form
        self.sampling = Sampling(settings.k, settings.temperature, 1.0, settings.max_tokens, form.stop, settings.seed)
        self.missing_eos_penalty = settings.missing_eos_penalty
        self.tokenizer_hash = policy.tokenizer_hash
        self.prompts: dict[str, list[int]] = {}

    def draw(self, problems: Sequence[Record], epochs: Sequence[int]) -> DrawnRollouts:
        """k rollouts of each problem. `epochs` counts how often a problem has been drawn before: the first time its
        rollouts are exactly what `reasonrl sample` gives with this seed."""
        requests = [
            Request(f"{problem['id']}#{epoch}" if epoch else problem["id"], self._prompt(problem))
            for problem, epoch in zip(problems, epochs, strict=True)
        ]
        completions = [completion for group in self.engine.sample(requests, self.sampling) for completion in group]
        owners = [owner for owner in zip(problems, requests, strict=True) for _ in range(self.sampling.k)]
        pairs = list(zip(owners, completions, strict=True))
        lengths = torch.tensor([len(completion.ids) for completion in completions])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return DrawnRollouts(
            records=[self._record(problem, completion) for (problem, _), completion in pairs],
            completions=completions,
            examples=[Example(request.prompt_ids, completion.ids) for (_, request), completion in pairs],
            mask=mask,
            rollout_logprobs=_padded(completions, mask),
        )

    def grade(self, drawn: DrawnRollouts) -> GradedRollouts:
        """Reads the final answers; adds the fields of the verdicts to the records."""
        self.scorer.grade_all(drawn.records)
        # A problem may be a sample itself, and one without an answer keeps what was recorded of its own completion.
        has_verdict = ["answer" in record for record in drawn.records]
        graded = list(zip(drawn.records, has_verdict, strict=True))
        correct = [has_answer and record["correct"] for record, has_answer in graded]
        parseable = [has_answer and record["extracted"] is not None for record, has_answer in graded]
        return GradedRollouts(**vars(drawn), correct=correct, parseable=parseable)

    def score(self, graded: GradedRollouts) -> ScoredRollouts:
        """Pays the rewards: at the end of a step what belongs to it, the rest at the last token. A completion that ran
        out of tokens earns nothing, and pays the penalty."""
        scores = self.scorer(graded.records)
        rewards = torch.zeros(graded.mask.shape)
        for row, (completion, score) in enumerate(zip(graded.completions, scores, strict=True)):
            last = len(completion.ids) - 1
            if completion.finish == "length":
                rewards[row, last] = -self.missing_eos_penalty
                continue
            rewards[row, last] = score.final
            for place, amount in self._step_rewards(completion, score):
                rewards[row, place] += amount
        return ScoredRollouts(**vars(graded), scores=scores, rewards=rewards)

    def _step_rewards(self, completion: Completion, score: Score) -> Iterator[tuple[int, float]]:
        """Each step's reward at the token that ends the step; at the last token where tokens and lines disagree."""
        earned = score.step_rewards or []
        ends = step_ends(self.policy.pieces(completion.ids))
        if len(ends) != len(earned):  # a token whose text depends on its neighbours, or a stop string's own line
            ends = (ends + [len(completion.ids) - 1] * len(earned))[: len(earned)]
        yield from zip(ends, earned, strict=True)

    def check(self, problems: Sequence[Record]) -> None:
        """Raises ReasonRLError for a problem that does not fit the context or cannot be scored, before any is drawn."""
        room = [self.policy.context - len(self._prompt(problem)) for problem in problems]
        for problem in problems:
            self.policy.check_fits(problem["id"], self._prompt(problem))
        if short := sum(tokens < self.sampling.max_tokens for tokens in room):
            console.warn(
                f"{short} of {len(problems)} prompts leave less than --max-tokens {self.sampling.max_tokens} of the "
                f"model's context of {self.policy.context}: their completions are cut short"
            )
        longest = [[self.policy.eos_id] * min(self.sampling.max_tokens, tokens) for tokens in room]
        self.scorer.check(
            [
                self._record(problem, Completion(ids, "", None, "length"))
                for problem, ids in zip(problems, longest, strict=True)
            ]
        )

    def _prompt(self, problem: Record) -> list[int]:
        if problem["id"] not in self.prompts:
            text = self.form.render(problem["question"], self.policy.tokenizer)
            self.prompts[problem["id"]] = self.policy.encode_prompt(text)
        return self.prompts[problem["id"]]

    def _record(self, problem: Record, completion: Completion) -> Record:
        return problem | {
            "completion": completion.text, "completion_ids": completion.ids,
            "finish": completion.finish, "tokenizer": self.tokenizer_hash,
        }  # fmt: skip


def _padded(completions: Sequence[Completion], mask: torch.Tensor) -> torch.Tensor | None:
    """The engine's log-probabilities (B, T); None where it does not give them."""
    logprobs = torch.zeros(mask.shape)
    for row, completion in enumerate(completions):
        if completion.logprobs is None:
            return None
        logprobs[row, : len(completion.ids)] = torch.tensor(completion.logprobs)
    return logprobs


class Evaluator(Protocol):
    """An ActorCritic, perhaps wrapped for several processes."""

    def __call__(
        self, input_ids: torch.Tensor, loss_mask: torch.Tensor, targets: torch.Tensor, *, entropies: bool
    ) -> Evaluation: ...


@torch.no_grad()
def evaluate(
    scored: ScoredRollouts,
    model: Evaluator,
    reference: Callable[[Microbatch], torch.Tensor] | None,
    max_tokens_per_batch: int,
    device: torch.device,
) -> EvaluatedRollouts:
    """Log-probabilities, entropies and values under `model`, and log-probabilities under `reference` (without one,
    those of `model`)."""
    names = ("logprobs", "entropies", "values", "reference_logprobs")
    tensors = {name: torch.zeros_like(scored.rewards) for name in names}
    for rows in scored.by_length(range(len(scored.examples)), max_tokens_per_batch):
        batch = collate([scored.examples[row] for row in rows]).to(device)
        evaluation = model(batch.input_ids, batch.loss_mask, batch.targets, entropies=True)
        reference_logprobs = evaluation.logprobs if reference is None else reference(batch)
        mask = scored.mask[rows]
        for name, values in zip(names, (*evaluation, reference_logprobs), strict=True):
            if values is not None:
                block = torch.zeros_like(mask, dtype=torch.float32)
                block[mask] = values.float().cpu()
                tensors[name][rows] = block
    return EvaluatedRollouts(**vars(scored) | tensors)


def estimate(
    evaluated: EvaluatedRollouts,
    settings: PpoSettings,
    summed: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
) -> Experience:
    """Advantages and returns: see `trainer`. `summed` sums a tensor over processes."""
    mask = evaluated.mask
    penalty = settings.kl * losses.k1(evaluated.logprobs, evaluated.reference_logprobs) * mask
    if settings.advantage == "gae":
        advantages, returns = losses.gae(
            evaluated.rewards - penalty, evaluated.values, mask, settings.gamma, settings.lam
        )
        return Experience(**vars(evaluated), advantages=losses.whiten(advantages, mask, summed), returns=returns)
    earned = evaluated.returns_of_samples.view(-1, settings.k)
    if settings.advantage == "rloo":
        per_sample = losses.rloo(earned - penalty.sum(1).view(-1, settings.k))
    else:
        per_sample = losses.grpo(earned)
    return Experience(
        **vars(evaluated), advantages=per_sample.view(-1, 1) * mask, returns=torch.zeros_like(evaluated.rewards)
    )
