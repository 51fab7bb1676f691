"""Solutions with their labels, as a reward model learns from them: weights, rows and microbatches."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reasonrl.errors import ReasonRLError
from reasonrl.rewards.reward_model import EncodedSolution


@dataclass(frozen=True)
class GradedSolution:
    """A solution and whether its final answer is right. `weight` is 1 in the mean."""

    question: str  # the question's id
    solution: EncodedSolution
    label: bool
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.solution)


@dataclass(frozen=True)
class SolutionRow:
    """Solutions that go through the model in one sequence: one, or several after the `prompt` tokens they share."""

    examples: Sequence[GradedSolution]
    prompt: int = 0

    def __len__(self) -> int:
        return self.prompt + sum(len(example) - self.prompt for example in self.examples)


@dataclass(frozen=True)
class SolutionBatch:
    """What one forward pass takes. input_ids: (B, T), padded on the right. N step ends of the solutions in these B rows
    stand at (rows, places), each (N,), with labels and weights, (N,) float32. The M `tokens` of right solutions come
    next after (token_rows, token_places), each (M,), with token_weights.

    Where rows hold several solutions, `positions` (B, T) continue from the prompt in each of them, and `mask`
    (B, 1, T, T) lets a solution see the prompt and itself; else both are None.
    """

    input_ids: torch.Tensor
    rows: torch.Tensor
    places: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    token_rows: torch.Tensor
    token_places: torch.Tensor
    tokens: torch.Tensor
    token_weights: torch.Tensor
    positions: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def to(self, device: torch.device) -> "SolutionBatch":
        parts = (getattr(self, name) for name in self.__dataclass_fields__)
        moved: list[Any] = [part if part is None else part.to(device) for part in parts]
        return SolutionBatch(*moved)


def is_held_out(question: str, fraction: float, seed: int) -> bool:
    """Whether a question is kept from training. It depends on its id and the seed alone."""
    digest = hashlib.blake2b(f"{seed}/{question}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < fraction * 2**64


def balanced(examples: Sequence[GradedSolution]) -> list[GradedSolution]:
    """The examples with their weights (see `trainer`), mean 1. Raises ReasonRLError if all labels are equal."""
    solutions = Counter((example.question, example.label) for example in examples)
    questions = Counter(label for _, label in solutions)
    if len(questions) < 2:
        what = "correct" if any(example.label for example in examples) else "wrong"
        raise ReasonRLError(f"all {len(examples)} solutions are {what}: there is nothing to tell apart; sample more")
    scale = len(examples) / 2
    return [
        GradedSolution(e.question, e.solution, e.label, scale / (solutions[e.question, e.label] * questions[e.label]))
        for e in examples
    ]


def in_rows(examples: Sequence[GradedSolution], share_prompts: bool) -> list[SolutionRow]:
    """A row for each example; with `share_prompts` for each question and prompt."""
    if not share_prompts:
        return [SolutionRow([example]) for example in examples]
    groups: dict[tuple[str, tuple[int, ...]], list[GradedSolution]] = {}
    for example in examples:
        prompt = tuple(example.solution.ids[: example.solution.prompt])
        groups.setdefault((example.question, prompt), []).append(example)
    return [SolutionRow(together, len(prompt)) for (_, prompt), together in groups.items()]


def collate_rows(batch: Sequence[SolutionRow], prefixes: str) -> SolutionBatch:
    """Pads to the longest row. A solution's weight is shared among its step ends."""
    shape = len(batch), max(map(len, batch))
    input_ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    owner = torch.full(shape, -1)  # whose a position is: 0 the prompt's, 1 … the solutions', -1 padding
    ends: list[tuple[int, int, float, float]] = []  # row, place, label, weight
    tokens: list[tuple[int, int, int, float]] = []  # row, place before it, token, weight
    for number, row in enumerate(batch):
        start = row.prompt
        input_ids[number, :start] = torch.tensor(row.examples[0].solution.ids[:start])
        positions[number, :start] = torch.arange(start)
        owner[number, :start] = 0
        for which, example in enumerate(row.examples, 1):
            ids, shift = example.solution.ids, start - row.prompt
            place = slice(start, len(ids) + shift)
            input_ids[number, place] = torch.tensor(ids[row.prompt :])
            positions[number, place] = torch.arange(row.prompt, len(ids))
            owner[number, place] = which
            ends += ((number, end + shift, label, weight) for end, label, weight in _step_ends(example, prefixes))
            # The solution's first token comes after the prompt, which is not shifted.
            tokens += (
                (number, before + (shift if before >= row.prompt else 0), token, weight)
                for before, token, weight in _next_tokens(example)
            )
            start = place.stop
    shared: tuple[torch.Tensor, ...] = ()
    if any(len(row.examples) > 1 for row in batch):
        seen, seer = owner[:, None, :], owner[:, :, None]
        shared = positions, (((seen == 0) | (seen == seer)) & torch.ones(shape[1], shape[1]).tril().bool())[:, None]
    whole, real = torch.long, torch.float32
    return SolutionBatch(
        input_ids,
        *_columns(ends, whole, whole, real, real),
        *_columns(tokens, whole, whole, whole, real),
        *shared,
    )


def _step_ends(example: GradedSolution, prefixes: str) -> Iterator[tuple[int, float, float]]:
    """Place, label and weight of each step end that is learned from."""
    ends = example.solution.ends if prefixes == "all" else example.solution.ends[-1:]
    for end in ends:
        yield end, float(example.label), example.weight / len(ends)


def _next_tokens(example: GradedSolution) -> Iterator[tuple[int, int, float]]:
    """Of a right solution's tokens, each: the place before it, the token, its weight."""
    ids = example.solution.ids
    places = range(max(1, example.solution.prompt), len(ids)) if example.label else range(0)
    for place in places:
        yield place - 1, ids[place], example.weight / len(places)


def _columns(rows: Sequence[tuple[float, ...]], *dtypes: torch.dtype) -> list[torch.Tensor]:
    """Tuples → a tensor for each of their places."""
    return [torch.tensor([row[place] for row in rows], dtype=dtype) for place, dtype in enumerate(dtypes)]
