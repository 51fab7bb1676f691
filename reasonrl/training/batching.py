"""Which examples go into which update, which rank and which forward pass."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from reasonrl.models.batching import batches_by_length
from reasonrl.settings import limits

# What tensors are filled with. Padding is masked by length, so any id serves that the model has an embedding for; a
# tokenizer's own may have none (one that was added without resizing the model).
PAD = 0


@dataclass(frozen=True)
class Example:
    """One sequence to learn from: `prompt_ids` are read, `completion_ids` (EOS included, if any) are in the loss.

    mask: which of `completion_ids` are in the loss, where not all are; the others are read only.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    mask: list[bool] | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def loss_tokens(self) -> int:
        """The number of tokens in the loss."""
        return len(self.completion_ids) if self.mask is None else sum(self.mask)


@dataclass(frozen=True)
class Microbatch:
    """What one forward pass takes.

    input_ids: (B, T), padded on the right, where a causal model never looks.
    loss_mask: (B, T) bool, true at positions whose *next* token is in the loss. By length, never by token value.
    targets: (N,) those next tokens, in the order of the true positions of `loss_mask`.
    """

    input_ids: torch.Tensor
    loss_mask: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device) -> "Microbatch":
        return Microbatch(self.input_ids.to(device), self.loss_mask.to(device), self.targets.to(device))


def update_batches(count: int, batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """For each update the indices of its examples: every epoch in a new order, no example left out.

    An epoch's last batch may be smaller. A fraction of an epoch ends early.
    """
    batches: list[list[int]] = []
    for epoch in range(int(epochs) + 1):
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        order = order[: round(count * min(1.0, epochs - epoch))]
        batches += [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return batches


def share(examples: Sequence[Any], rank: int, world: int) -> list[Any]:
    """A rank's part of one update's examples, dealt out by length so that all have about as much to do."""
    return sorted(examples, key=len, reverse=True)[rank::world]


def pass_tokens(model: PreTrainedModel, device: torch.device) -> int:
    """Tokens of one forward and backward pass, where --batch-tokens does not say: on a CPU as many as keep
    CPU_PASS_BYTES of activations in fp32 (see docs/plan.md)."""
    if device.type != "cpu":
        return limits.GPU_PASS_TOKENS
    config = model.config.get_text_config()
    per_token = 2 * limits.ACTIVATION_BYTES * config.num_hidden_layers * config.hidden_size
    return min(limits.CPU_PASS_TOKENS, limits.CPU_PASS_BYTES // per_token)


def microbatches(examples: Sequence[Example], max_tokens_per_batch: int) -> Iterator[Microbatch]:
    """Examples of similar length together, as many as fit, padding included."""
    for batch in batches_by_length([len(example) for example in examples], max_tokens_per_batch):
        yield collate([examples[index] for index in batch])


def collate(examples: Sequence[Example]) -> Microbatch:
    """Pads to the longest example."""
    width = max(map(len, examples))
    input_ids = torch.full((len(examples), width), PAD)
    loss_mask = torch.zeros((len(examples), width), dtype=torch.bool)
    for row, example in enumerate(examples):
        input_ids[row, : len(example)] = torch.tensor(example.prompt_ids + example.completion_ids)
        mask = True if example.mask is None else torch.tensor(example.mask)
        loss_mask[row, len(example.prompt_ids) - 1 : len(example) - 1] = mask
    return Microbatch(input_ids, loss_mask, input_ids[:, 1:][loss_mask[:, :-1]])
