"""Experience: completions drawn from the current policy, judged, and scored token by token by the trainer.

The engine draws, but its log-probabilities are not trained on: the trainer computes its own, at the sampling
temperature, since the two may differ in precision and kernels. How far they are apart is logged.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import torch

from reasonrl import console
from reasonrl.models.policy import Policy
from reasonrl.records import Record
from reasonrl.rewards.judge import Judge, Judged
from reasonrl.rewards.orm import step_ends
from reasonrl.sampling import Completion, Engine, Request, Sampling
from reasonrl.tasks.prompts import PromptForm
from reasonrl.training.batching import Example, Microbatch, collate


@dataclass
class Rollouts:
    """B completions of at most T tokens, those of one question together. Tensors are (B, T), on the CPU, and zero
    where `mask` (B, T) bool is false: by length, never by token value.

    rewards: what the verifiers pay, at the tokens where they pay it. The rest is filled in by the trainer. logprobs,
    reference, entropies: nats, at the sampling temperature. drawn: the engine's own log-probabilities at temperature 1
    (None where it does not say).
    """

    examples: list[Example]
    judged: list[Judged]
    truncated: list[bool]
    mask: torch.Tensor
    rewards: torch.Tensor
    drawn: torch.Tensor | None
    logprobs: torch.Tensor = field(init=False)
    reference: torch.Tensor = field(init=False)
    entropies: torch.Tensor = field(init=False)
    values: torch.Tensor = field(init=False)
    advantages: torch.Tensor = field(init=False)
    returns: torch.Tensor = field(init=False)

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())

    def scores(self) -> torch.Tensor:
        """(B,) what each completion was paid in all."""
        return self.rewards.sum(1)

    def by_length(self, rows: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
        """Rows of similar length together, longest first, as many as fit `most_tokens`, padding included."""
        part: list[int] = []
        for row in sorted(rows, key=lambda row: -len(self.examples[row])):
            if part and len(self.examples[part[0]]) * (len(part) + 1) > most_tokens:
                yield part
                part = []
            part.append(row)
        if part:
            yield part


@dataclass(frozen=True)
class Experience(Microbatch):
    """A microbatch of rollouts with what PPO's losses want of its N tokens, each (N,)."""

    logprobs: torch.Tensor
    reference: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    @classmethod
    def of(cls, rollouts: Rollouts, rows: list[int]) -> "Experience":
        batch, mask = collate([rollouts.examples[row] for row in rows]), rollouts.mask[rows]
        per_token = ("logprobs", "reference", "values", "advantages", "returns")
        return cls(
            batch.input_ids, batch.learnt, batch.targets, *(getattr(rollouts, name)[rows][mask] for name in per_token)
        )

    def to(self, device: torch.device) -> "Experience":
        return Experience(*(getattr(self, column.name).to(device) for column in fields(self)))


class Collector:
    """Draws rollouts of questions from the policy as it is now, and has them judged.

    missing_eos_penalty: what a completion that ran out of tokens pays; it earns nothing either way.
    """

    def __init__(
        self, policy: Policy, engine: Engine, judge: Judge, form: PromptForm, sampling: Sampling, penalty: float
    ):
        self.policy, self.engine, self.judge, self.form = policy, engine, judge, form
        self.sampling, self.penalty = sampling, penalty
        self.tokenizer_hash = policy.tokenizer_hash
        self.prompts: dict[str, list[int]] = {}

    def __call__(self, problems: Sequence[Record], epoch: Sequence[int]) -> Rollouts:
        """k rollouts of each problem. `epoch` counts how often a problem has been drawn before: the first time its
        rollouts are exactly what `reasonrl sample` gives with this seed."""
        requests = [
            Request(f"{problem['id']}#{again}" if again else problem["id"], self._prompt(problem))
            for problem, again in zip(problems, epoch, strict=True)
        ]
        groups = list(self.engine.sample(requests, self.sampling))
        drawn = [completion for group in groups for completion in group]
        prompts = [request.prompt_ids for request in requests for _ in range(self.sampling.k)]
        asked = [problem for problem in problems for _ in range(self.sampling.k)]
        with torch.autocast(self.policy.model.device.type, enabled=False):  # the verifier judges as in `score`
            judged = self.judge([self._record(*pair) for pair in zip(asked, drawn, strict=True)])
        return self._assemble(prompts, drawn, judged)

    def check(self, problems: Sequence[Record]) -> None:
        """Raises ReasonRLError for a problem that does not fit the context or cannot be judged, before any is drawn."""
        room = [self.policy.context - len(self._prompt(problem)) for problem in problems]
        for problem in problems:
            self.policy.check_fits(problem["id"], self._prompt(problem))
        if short := sum(tokens < self.sampling.max_tokens for tokens in room):
            console.warn(
                f"{short} of {len(problems)} prompts leave less than --max-tokens {self.sampling.max_tokens} of the "
                f"model's context of {self.policy.context}: their completions are cut short"
            )
        longest = [[self.policy.eos_id] * min(self.sampling.max_tokens, tokens) for tokens in room]
        self.judge.check(
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

    def _assemble(self, prompts: list[list[int]], drawn: list[Completion], judged: list[Judged]) -> Rollouts:
        examples = [Example(prompt, one.ids) for prompt, one in zip(prompts, drawn, strict=True)]
        size = (len(drawn), max(len(one.ids) for one in drawn))
        mask = torch.arange(size[1]) < torch.tensor([len(one.ids) for one in drawn])[:, None]
        rewards, said = torch.zeros(size), torch.zeros(size)
        for row, (completion, verdict) in enumerate(zip(drawn, judged, strict=True)):
            last = len(completion.ids) - 1
            if completion.logprobs is not None:
                said[row, : last + 1] = torch.tensor(completion.logprobs)
            if completion.finish == "length":
                rewards[row, last] = -self.penalty
                continue
            rewards[row, last] = verdict.final
            for place, amount in self._paid_on_the_way(completion, verdict):
                rewards[row, place] += amount
        truncated = [completion.finish == "length" for completion in drawn]
        engine_says = all(completion.logprobs is not None for completion in drawn)
        return Rollouts(examples, judged, truncated, mask, rewards, said if engine_says else None)

    def _paid_on_the_way(self, completion: Completion, verdict: Judged) -> Iterator[tuple[int, float]]:
        """Each step's reward at the token that ends the step; at the last token where tokens and lines disagree."""
        steps = verdict.step_rewards or []
        ends = step_ends(self.policy.pieces(completion.ids))
        if len(ends) != len(steps):  # a token whose text depends on its neighbours, or a stop string's own line
            ends = (ends + [len(completion.ids) - 1] * len(steps))[: len(steps)]
        yield from zip(ends, steps, strict=True)


@torch.no_grad()
def score(
    rollouts: Rollouts, model: Callable, reference: Callable | None, most_tokens: int, device: torch.device
) -> None:
    """Fills in logprobs, entropies and values under `model` (an ActorCritic, perhaps wrapped), and `reference` log-
    probabilities (equal to logprobs without one)."""
    names = ("logprobs", "entropies", "values", "reference")
    for name in names:
        setattr(rollouts, name, torch.zeros_like(rollouts.rewards))
    for rows in rollouts.by_length(range(len(rollouts.examples)), most_tokens):
        part = collate([rollouts.examples[row] for row in rows]).to(device)
        scored = model(part.input_ids, part.learnt, part.targets, entropies=True)
        found = {"logprobs": scored.logprobs, "entropies": scored.entropies, "values": scored.values}
        found["reference"] = scored.logprobs if reference is None else reference(part)
        mask = rollouts.mask[rows]
        for name, values in found.items():
            if values is not None:
                block = torch.zeros_like(mask, dtype=torch.float32)
                block[mask] = values.float().cpu()
                getattr(rollouts, name)[rows] = block
