"""The arithmetic of learning, on tensors only."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

CHUNK = 1 << 26  # logits held at a time; beyond this they are computed in parts, and again in the backward pass


class TokenLogprobs(nn.Module):
    """A causal language model that answers with the log-probabilities of given next tokens.

    The vocabulary projection runs on the wanted positions only, so the (B, T, V) tensor of all logits never exists.
    It is a module, and not a function of one, because data-parallel wrappers work on `forward`.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, wanted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) padded on the right, wanted (B, T) bool with N true, targets (N,) → (N,) float32, nats."""
        hidden = self.model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state[wanted]
        head = self.model.get_output_embeddings()
        size = max(1, CHUNK // head.weight.shape[0])
        if len(targets) <= size:
            return _logprobs(hidden, head, targets)
        parts = [
            checkpoint(_logprobs, states, head, tokens, use_reentrant=False)
            for states, tokens in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        return torch.cat(parts)


def _logprobs(hidden: torch.Tensor, head: nn.Module, targets: torch.Tensor) -> torch.Tensor:
    return -nn.functional.cross_entropy(head(hidden).float(), targets, reduction="none")
