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

from reasonrl.errors import UsageError

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
    """query (B, H, n, D), key (B, G, T, D), value (B, G, T, V), mask (B, 1, n, T) or None → (B, n, H, V)."""
    if query.shape[2] != 1 or dropout:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    rows, heads = query.shape[:2]
    groups = key.shape[1]
    grouped = query.view(rows, groups, heads // groups, query.shape[-1])
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def used_by(model):
    """Switches `model` to this attention for the duration of a block.

    Raises UsageError for a model that calculates attention itself, of which transformers only warns: most such classes
    (GPT-J, CodeGen, MPT) would add our masks of truth values to the scores. Those that call PyTorch's kernel do not.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation not in (NAME, "sdpa"):
        raise UsageError(
            f"models of type {model.config.model_type} bring an attention of their own, with which this process cannot "
            "sample; use --backend vllm or --base-url"
        )
    try:
        yield
    finally:
        model.set_attn_implementation(before)
