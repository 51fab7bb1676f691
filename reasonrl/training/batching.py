"""Which examples go into which optimiser step, which rank and which forward pass."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

# What tensors are filled with. Padding is masked by length, so any id serves that the model has an embedding for; a
# tokenizer's own may have none (one that was added without resizing the model).
PAD = 0
CPU_ACTIVATIONS = 1 << 30  # bytes of one pass


@dataclass(frozen=True)
class Example:
    """One sequence to learn from: `prompt_ids` are read, `completion_ids` (EOS included, if any) are learnt.

    mask: which of `completion_ids` are learnt, where not all are; the others are read only.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    mask: list[bool] | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def learnt(self) -> int:
        """The number of tokens that are learnt."""
        return len(self.completion_ids) if self.mask is None else sum(self.mask)


@dataclass(frozen=True)
class Microbatch:
    """What one forward pass takes.

    input_ids: (B, T), padded on the right, where a causal model never looks.
    learnt: (B, T) bool, true at positions whose *next* token is to be learnt. By length, never by token value.
    targets: (N,) those next tokens, in the order of `learnt`'s true positions.
    """

    input_ids: torch.Tensor
    learnt: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device) -> "Microbatch":
        return Microbatch(self.input_ids.to(device), self.learnt.to(device), self.targets.to(device))


def batches(count: int, batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """For each optimiser step the indices of its examples: every epoch in a new order, no example left out.

    An epoch's last batch may be smaller. A fraction of an epoch ends early.
    """
    steps: list[list[int]] = []
    for epoch in range(int(epochs) + 1):
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        order = order[: round(count * min(1.0, epochs - epoch))]
        steps += [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return steps


def share(examples: Sequence[Example], rank: int, world: int) -> list[Example]:
    """A rank's part of one optimiser step's examples, dealt out by length so that all have about as much to do."""
    return sorted(examples, key=len, reverse=True)[rank::world]


def pass_tokens(model: PreTrainedModel, device: torch.device) -> int:
    """Tokens of one forward and backward pass, where nobody says. On a CPU a gigabyte of activations (68 bytes a layer
    and hidden unit in fp32, see docs/plan.md): more make it no faster, and small batches of like lengths pad little."""
    if device.type != "cpu":
        return 1 << 14
    config = model.config.get_text_config()
    return min(1 << 13, CPU_ACTIVATIONS // (68 * config.num_hidden_layers * config.hidden_size))


def microbatches(examples: Sequence[Example], most_tokens: int, pad_id: int = PAD) -> Iterator[Microbatch]:
    """Examples of similar length together, as many as fit `most_tokens`, padding included."""
    part: list[Example] = []
    for example in sorted(examples, key=len, reverse=True):
        if part and len(part[0]) * (len(part) + 1) > most_tokens:
            yield collate(part, pad_id)
            part = []
        part.append(example)
    if part:
        yield collate(part, pad_id)


def collate(examples: Sequence[Example], pad_id: int = PAD) -> Microbatch:
    """Pads to the longest example."""
    width = max(map(len, examples))
    input_ids = torch.full((len(examples), width), pad_id)
    learnt = torch.zeros((len(examples), width), dtype=torch.bool)
    for row, example in enumerate(examples):
        input_ids[row, : len(example)] = torch.tensor(example.prompt_ids + example.completion_ids)
        own = True if example.mask is None else torch.tensor(example.mask)
        learnt[row, len(example.prompt_ids) - 1 : len(example) - 1] = own
    return Microbatch(input_ids, learnt, input_ids[:, 1:][learnt[:, :-1]])
