"""The arithmetic of learning, on tensors only. Logarithms are natural, so log-probabilities and KL are in nats."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from reasonrl.settings.limits import LOGITS

# Log-probabilities of tokens


class TokenLogprobs(nn.Module):
    """A causal language model that answers with the log-probabilities of given next tokens.

    It is a module, and not a function of one, because data-parallel wrappers work on `forward`.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, loss_mask: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) padded on the right, loss_mask (B, T) bool with N true, targets (N,) → (N,) float32 nats."""
        hidden = self.model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state[loss_mask]
        return evaluate_tokens(hidden, self.model.get_output_embeddings(), targets).logprobs


class TokenEvaluation(NamedTuple):
    """Of N tokens, float32, nats. entropies: of the distributions they were drawn from; None where not asked for."""

    logprobs: torch.Tensor
    entropies: torch.Tensor | None


def evaluate_tokens(
    hidden: torch.Tensor, head: nn.Linear, targets: torch.Tensor, temperature: float = 1.0, entropies: bool = False
) -> TokenEvaluation:
    """hidden (N, d), targets (N,) → log-probabilities and entropies under the softmax of head(hidden) / temperature.

    Only positions in the loss come in, and at most LOGITS logits exist at a time: never the (B, T, V) tensor of all.
    """
    size = max(1, LOGITS // head.weight.shape[0])
    parts = [
        _evaluate(states, head, tokens, temperature, entropies)
        if len(targets) <= size
        else checkpoint(_evaluate, states, head, tokens, temperature, entropies, use_reentrant=False)
        for states, tokens in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    logprobs, entropy = zip(*parts, strict=True)
    return TokenEvaluation(torch.cat(logprobs), torch.cat(entropy) if entropies else None)


def _evaluate(
    hidden: torch.Tensor, head: nn.Linear, targets: torch.Tensor, temperature: float, entropies: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    logits = head(hidden).float()
    if temperature != 1:
        logits = logits / temperature
    logprobs = -nn.functional.cross_entropy(logits, targets, reduction="none")
    if not entropies:
        return logprobs, None
    # H = log Z − Σ p·logit, and log Z = logit of the target − its log-probability.
    mean_logit = torch.einsum("nv,nv->n", logits.softmax(-1), logits)
    return logprobs, logits.gather(-1, targets[:, None]).squeeze(-1) - logprobs - mean_logit


# How far two policies are apart: estimators of KL(π ‖ ref) from tokens that π drew
# (Schulman 2020, http://joschu.net/blog/kl-approx.html)


def k1(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """log π − log ref a token. Unbiased; single tokens may be negative, their mean over many must not stay so."""
    return logprobs - reference


def k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """ref/π − 1 − log(ref/π) a token. Unbiased, never negative, and of less variance than k1 where π is near ref."""
    ratio = reference - logprobs
    return torch.expm1(ratio) - ratio


# Advantages. (B, T) tensors hold B completions of at most T tokens; `mask` (B, T) bool is true on their tokens.


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438) → advantages, returns, (B, T).

    δ_t = r_t + γ V_(t+1) − V_t,  A_t = δ_t + γλ A_(t+1),  returns = A + V; both V and A are zero after the last token.
    """
    rewards, values = rewards * mask, values * mask
    advantages = torch.zeros_like(values)
    following = next_value = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        following = (rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * following) * mask[:, t]
        advantages[:, t], next_value = following, values[:, t]
    return advantages, advantages + values


def rloo(rewards: torch.Tensor) -> torch.Tensor:
    """(questions, k) → reward minus the mean of the other samples of its question (Ahmadian et al., 2402.14740)."""
    k = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * (k / (k - 1))


def grpo(rewards: torch.Tensor) -> torch.Tensor:
    """(questions, k) → rewards whitened within their question (Shao et al. 2024, arXiv 2402.03300)."""
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (centred.square().sum(1, keepdim=True) / (rewards.shape[1] - 1)).sqrt().add(1e-6)


def whiten(
    values: torch.Tensor, mask: torch.Tensor, total: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums
) -> torch.Tensor:
    """Mean 0 and variance 1 over the true tokens; zero elsewhere. `total` sums a tensor over processes."""
    true = values[mask].double()
    count, first, second = total(torch.stack([torch.ones_like(true).sum(), true.sum(), true.square().sum()]))
    mean = first / count
    deviation = (second / count - mean.square()).clamp(min=0).add(1e-8).sqrt()
    return ((values - mean) / deviation * mask).to(values.dtype)


# Losses, one number per token: the caller sums and divides by the tokens of the whole minibatch


class Clipped(NamedTuple):
    """A loss a token, and whether clipping decided it."""

    loss: torch.Tensor
    clipped: torch.Tensor


def policy_loss(logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, clip: float) -> Clipped:
    """− min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) with ρ = π / π_old (Schulman et al. 2017, arXiv 1707.06347, eq. 7)."""
    ratio = (logprobs - old).exp()
    plain, bounded = -ratio * advantages, -ratio.clamp(1 - clip, 1 + clip) * advantages
    return Clipped(torch.maximum(plain, bounded), bounded > plain)


def value_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> Clipped:
    """½ max((V − R)², (V_old + clip(V − V_old, ± ε) − R)²): PPO's reference code, github.com/openai/baselines."""
    bounded = old + (values - old).clamp(-clip, clip)
    plain, bounded = (values - returns).square(), (bounded - returns).square()
    return Clipped(0.5 * torch.maximum(plain, bounded), bounded > plain)


def explained_variance(values: torch.Tensor, returns: torch.Tensor) -> float:
    """1 − Var(returns − values) / Var(returns): 1 is a perfect critic, 0 one that knows the mean only, of (N,)."""
    spread = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / spread) if spread > 0 else float("nan")
