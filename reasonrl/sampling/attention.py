"""Attention for decoding, registered with transformers under the name `reasonrl`.

One query a row: the query heads that share a key-value head become the query positions of a small attention problem,
so that grouped keys and values are read where they lie instead of being copied out once a query head. Everything
longer than one position goes to PyTorch's own kernel as transformers calls it.
"""

from contextlib import contextmanager

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "reasonrl"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """query (B, H, n, D), key and value (B, G, T, D), mask (B, 1, n, T) or None → (B, n, H, D)."""
    if query.shape[2] != 1 or dropout:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    rows, heads, _, size = query.shape
    groups = key.shape[1]
    grouped = query.view(rows, groups, heads // groups, size)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, size), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def used_by(model):
    """Switches `model` to this attention for the duration of a block."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
