"""Passes over a fixed set of examples: the drive shared by the trainers that learn from records."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from reasonrl import console
from reasonrl.training.batching import share
from reasonrl.training.loop import Loop


def run(
    loop: Loop,
    examples: Sequence[Any],
    plan: Sequence[Sequence[int]],
    epochs: float,
    *,
    parts: Callable[[Sequence[Any]], Iterable[Any]],
    loss: Callable[[Any], torch.Tensor],
    size: Callable[[Sequence[Any]], int] = len,
    about: Callable[[Sequence[Any]], dict[str, Any]] = lambda step: {},
) -> dict[str, float]:
    """Takes the loop through `plan` (see `batching.batches`) and logs every step. Returns the last step's metrics.

    parts: some examples → their microbatches. loss: a microbatch → a sum, which is divided by the `size` of the whole
    step, so that neither microbatches nor the number of processes change it. about: what else is logged of a step.
    """
    rank, metrics = loop.accelerator.process_index, {}
    loop.model.train()
    with console.progress("training", total=len(plan)) as advance:
        for indices in loop.steps(plan):
            step = [examples[i] for i in indices]
            count = size(step)
            # A rank without a share in a small last batch goes through the motions with an example that weighs nothing.
            mine, weight = share(step, rank, loop.world), 1.0
            if not mine:
                mine, weight = step[:1], 0.0
            metrics = loop.update(
                list(parts(mine)), lambda part, weight=weight, count=count: weight * loss(part) / count
            )
            epoch = (loop.step + 1) * epochs / len(plan)
            loop.log(metrics | {"epoch": round(epoch, 4), "examples": len(step)} | about(step))
            advance(loop.step + 1, f"loss {metrics['loss']:.3f}, {loop.speed:,.0f} tokens/s")
    return metrics
