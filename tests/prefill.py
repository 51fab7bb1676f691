"""How much of prompts a model has read, counted where it reads them."""

from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Prefill:
    """Prompt tokens so far, padding left out."""

    tokens: int = 0


@contextmanager
def counted_prefill(model):
    """Counts the tokens of every forward pass of `model` that starts without a cache, for the duration of a block."""
    count = Prefill()

    def count_prompts(_, __, inputs):
        if inputs.get("past_key_values") is None:
            count.tokens += int(inputs["attention_mask"].sum())

    hook = model.register_forward_pre_hook(count_prompts, with_kwargs=True)
    try:
        yield count
    finally:
        hook.remove()
