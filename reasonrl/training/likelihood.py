"""Maximum likelihood of completions, given their prompts: what `sft` and `rcrl` learn by.

    loss = − (1 / N) Σ log π(token | prompt, tokens before it)     over the N completion tokens of an update

The mean is over the tokens of the whole update, whatever the microbatches and ranks, so neither changes the loss.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from reasonrl import console
from reasonrl.models import adapters
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.models.language_model import LanguageModel, check_output_layer
from reasonrl.prompts import PromptForm
from reasonrl.settings import RcrlSettings, SftSettings
from reasonrl.training import epochs
from reasonrl.training.batching import Example, Microbatch, microbatches, pass_tokens, update_batches
from reasonrl.training.loop import Loop, enable_gradient_checkpointing, make_accelerator
from reasonrl.training.losses import TokenLogprobs


class Likelihood:
    """The objective of a Loop whose model is a TokenLogprobs."""

    def __init__(self, loop: Loop, max_tokens_per_batch: int):
        self.loop, self.max_tokens_per_batch = loop, max_tokens_per_batch

    def microbatches(self, examples: Sequence[Example]) -> Iterator[Microbatch]:
        return microbatches(examples, self.max_tokens_per_batch)

    def loss(self, part: Microbatch) -> torch.Tensor:
        return -self.loop.model(part.input_ids, part.loss_mask, part.targets).sum()

    def size(self, examples: Sequence[Example]) -> int:
        return sum(example.loss_tokens for example in examples)

    def describe(self, examples: Sequence[Example]) -> dict[str, Any]:
        return {"completion_tokens": self.size(examples)}


def train(
    policy: LanguageModel,
    examples: Sequence[Example],
    form: PromptForm,
    settings: SftSettings | RcrlSettings,
    checkpoint: Checkpoint,
    about: dict[str, Any],
) -> None:
    """Fine-tunes `policy` on `examples` and writes the finished checkpoint. `about` goes into its marker."""
    accelerator = make_accelerator(settings.device, settings.dtype)
    check_output_layer(policy)
    checkpoint.open()
    accelerator.wait_for_everyone()
    kept = epochs.fitting(examples, settings, policy.context)
    batches = update_batches(len(kept), settings.batch_size, settings.epochs, settings.seed)
    model = TokenLogprobs(prepare_model(policy, settings))
    loop = Loop(accelerator, model, settings, len(batches), checkpoint)
    objective = Likelihood(loop, settings.batch_tokens or pass_tokens(policy.model, accelerator.device))
    metrics = epochs.run(loop, objective, kept, batches)

    trained = loop.finish().model
    if loop.is_main:
        adapters.save(trained, policy, checkpoint.partial)
        checkpoint.finish(
            {
                "prompt": form.to_json(),
                "tokenizer": policy.tokenizer_hash,
                "examples": len(kept),
                "updates": len(batches),
                "processes": loop.world,
            }
            | about
        )
        if metrics:
            loss_and_speed = f"last loss {metrics['loss']:.4f}, {loop.speed:,.0f} tokens/s"
            console.log(f"{len(batches)} updates on {len(kept)} examples, {loss_and_speed}")
    accelerator.wait_for_everyone()


def prepare_model(policy: LanguageModel, settings: SftSettings | RcrlSettings) -> PreTrainedModel:
    """The policy's model, with a fresh LoRA adapter on every linear layer if the settings ask for one."""
    if settings.gradient_checkpointing:
        enable_gradient_checkpointing(policy.model)
    if settings.lora_rank:
        return adapters.add_lora(policy.model, settings.lora_rank, settings.seed, "CAUSAL_LM")
    return policy.model
