"""Passes over a fixed set of examples: the drive shared by the trainers that learn from records."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch

from reasonrl import console
from reasonrl.errors import ReasonRLError
from reasonrl.settings.shared import RecordTrainerSettings
from reasonrl.training.batching import share
from reasonrl.training.loop import Loop


class Objective(Protocol):
    """What is learned from examples, and how an update's examples are cut into forward passes."""

    def microbatches(self, examples: Sequence[Any]) -> Iterable[Any]: ...

    def loss(self, part: Any) -> torch.Tensor:
        """Of a microbatch: a sum, which is divided by the `size` of the whole update, so that neither microbatches nor
        the number of processes change it."""
        ...

    def size(self, examples: Sequence[Any]) -> int: ...

    def describe(self, examples: Sequence[Any]) -> dict[str, Any]:
        """What else is logged of an update."""
        ...


def fitting(
    examples: Sequence[Any], settings: RecordTrainerSettings, context: int, what: str = "examples"
) -> list[Any]:
    """The examples that are no longer than --max-length and the context. Raises ReasonRLError if there are none."""
    longest = min(settings.max_length or context, context)
    kept = [example for example in examples if len(example) <= longest]
    if len(kept) < len(examples):
        console.warn(f"left out {len(examples) - len(kept)} {what} of more than {longest} tokens")
    if not kept:
        raise ReasonRLError(f"no example of at most {longest} tokens to train on")
    return kept


def run(
    loop: Loop, objective: Objective, examples: Sequence[Any], batches: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Takes the loop through `batches` (see `batching.update_batches`) of the examples and logs every update. Returns
    the last update's metrics."""
    metrics: dict[str, float] = {}
    loop.model.train()
    with console.progress("training", total=len(batches)) as advance:
        for indices in loop.updates(batches):
            batch = [examples[i] for i in indices]
            size = objective.size(batch)
            # A rank without a share in a small last batch goes through the motions with an example that weighs nothing.
            part, weight = share(batch, loop.rank, loop.world), 1.0
            if not part:
                part, weight = batch[:1], 0.0

            def loss(one: Any, weight: float = weight, size: int = size) -> torch.Tensor:
                return weight * objective.loss(one) / size

            metrics = loop.gradient_update(list(objective.microbatches(part)), loss)
            epoch = round((loop.done + 1) * loop.settings.epochs / len(batches), 4)
            loop.log(metrics | {"epoch": epoch, "examples": len(batch)} | objective.describe(batch))
            advance(loop.done + 1, f"loss {metrics['loss']:.3f}, {loop.speed:,.0f} tokens/s")
    return metrics
