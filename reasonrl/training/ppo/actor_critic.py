"""The policy, its value function and the frozen policy that it started from, as PPO needs them."""

import copy
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from reasonrl.models import adapters
from reasonrl.models.language_model import LanguageModel
from reasonrl.training.batching import Microbatch
from reasonrl.training.losses import evaluate_tokens


class Evaluation(NamedTuple):
    """Of N tokens, float32. logprobs and entropies at the sampling temperature, nats; None where not asked for."""

    logprobs: torch.Tensor
    entropies: torch.Tensor | None
    values: torch.Tensor | None


class ValueHead(nn.Module):
    """d → 2d → 1, as in trlX (github.com/CarperAI/trlx, modeling_base.py). Its last layer starts at zero: so do the
    values, and the first gradients leave the trunk as it is."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 1))
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden (N, d) → values (N,) float32."""
        return self.layers(hidden).squeeze(-1).float()


class ActorCritic(nn.Module):
    """A policy that is trained, and its value function.

    critic: "shared", a head on the policy's trunk; "separate", a head on a trunk of its own, which starts as a copy of
    the policy's; "none". lora_rank > 0 trains a fresh adapter (of each trunk) instead of the weights.
    """

    def __init__(self, policy: LanguageModel, critic: str, temperature: float, *, lora_rank: int, seed: int):
        super().__init__()
        self.temperature = temperature
        trunk = copy.deepcopy(policy.model.get_decoder()) if critic == "separate" else None
        self.policy: Any = adapters.add_lora(policy.model, lora_rank, seed, "CAUSAL_LM") if lora_rank else policy.model
        if trunk is not None and lora_rank:
            trunk = adapters.add_lora(trunk, lora_rank, seed)
        self.trunk = trunk
        torch.manual_seed(seed)
        width = policy.model.get_output_embeddings().weight.shape[1]
        self.head = ValueHead(width).to(policy.model.device) if critic != "none" else None

    def forward(
        self,
        input_ids: torch.Tensor,
        loss_mask: torch.Tensor,
        targets: torch.Tensor,
        *,
        entropies: bool = False,
        values: bool = True,
        trunk_learns: bool = True,
    ) -> Evaluation:
        """input_ids (B, T) padded on the right, loss_mask (B, T) bool with N true, targets (N,) → of these N tokens.

        The value of a token is that of the state before it. Without `trunk_learns` the values teach the head only.
        """
        hidden = self.policy.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state[loss_mask]
        evaluation = evaluate_tokens(hidden, self.policy.get_output_embeddings(), targets, self.temperature, entropies)
        of_states = None
        if values and self.head is not None:
            if self.trunk is not None:
                hidden = self.trunk(input_ids=input_ids, use_cache=False).last_hidden_state[loss_mask]
            of_states = self.head(hidden if trunk_learns or self.trunk is not None else hidden.detach())
        return Evaluation(*evaluation, of_states)

    def actor_parameters(self) -> list[nn.Parameter]:
        """What critic warm-up leaves as it is."""
        return [parameter for parameter in self.policy.parameters() if parameter.requires_grad]


class Reference:
    """The policy as it was before training: a frozen copy or, with LoRA, the policy with its adapter switched off, so
    that no second copy is held. To be made before training begins. It is no part of the trained module, nor its state.
    """

    def __init__(self, policy: LanguageModel, lora_rank: int):
        self.copy = None if lora_rank else copy.deepcopy(policy.model).eval().requires_grad_(False)

    @torch.no_grad()
    def logprobs(self, actor: ActorCritic, part: Microbatch) -> torch.Tensor:
        """Log-probabilities (N,) of a microbatch's targets, at the actor's temperature."""
        model = actor.policy if self.copy is None else self.copy.to(part.input_ids.device)
        with actor.policy.disable_adapter() if self.copy is None else nullcontext():
            hidden = model.get_decoder()(input_ids=part.input_ids, use_cache=False).last_hidden_state[part.loss_mask]
            return evaluate_tokens(hidden, model.get_output_embeddings(), part.targets, actor.temperature).logprobs
