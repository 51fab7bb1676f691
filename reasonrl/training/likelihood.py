"""Maximum likelihood of the learnt tokens of examples, given what stands before them.

    loss = − (1 / N) Σ log π(token | tokens before it)     over the N learnt tokens of a step

The mean is over the tokens of the whole step, whatever the microbatches and ranks, so neither changes the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reasonrl import console
from reasonrl.errors import ReasonRLError
from reasonrl.models import adapters
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.models.policy import Policy, check_output_layer
from reasonrl.tasks.prompts import PromptForm
from reasonrl.training import epochs
from reasonrl.training.batching import Example, Microbatch, batches, microbatches, pass_tokens
from reasonrl.training.loop import Loop, Optimisation, make_accelerator
from reasonrl.training.losses import TokenLogprobs


@dataclass(frozen=True)
class Settings:
    """The paper's: 4 epochs, batches of 128, 2e-5 decaying to 2e-7 by a cosine with warm-up."""

    epochs: float = 4
    batch_size: int = 128
    optimisation: Optimisation = Optimisation()
    batch_tokens: int | None = None  # padded tokens in one forward pass
    max_length: int | None = None  # longer examples are left out; None: the model's context
    lora_rank: int = 0
    gradient_checkpointing: bool = False
    save_every: int = 200
    seed: int = 0


def train(
    policy: Policy,
    examples: Sequence[Example],
    form: PromptForm,
    settings: Settings,
    checkpoint: Checkpoint,
    *,
    device: str | None = None,
    dtype: str = "auto",
    about: dict[str, Any] | None = None,
) -> None:
    """Fine-tunes `policy` on `examples` and writes the finished checkpoint. `about` goes into its marker."""
    accelerator = make_accelerator(device, dtype)
    check_output_layer(policy)
    checkpoint.open()
    accelerator.wait_for_everyone()
    longest = min(settings.max_length or policy.context, policy.context)
    fitting = [example for example in examples if len(example) <= longest]
    if len(fitting) < len(examples):
        console.warn(f"left out {len(examples) - len(fitting)} examples of more than {longest} tokens")
    if not fitting:
        raise ReasonRLError(f"no example of at most {longest} tokens to train on")

    plan = batches(len(fitting), settings.batch_size, settings.epochs, settings.seed)
    loop = Loop(
        accelerator, TokenLogprobs(prepare_model(policy, settings)), settings.optimisation, len(plan), checkpoint,
        settings.save_every, settings.seed,
    )  # fmt: skip
    most_tokens = settings.batch_tokens or pass_tokens(policy.model, accelerator.device)

    def loss(part: Microbatch) -> torch.Tensor:
        return -loop.model(part.input_ids, part.learnt, part.targets).sum()

    learnt = lambda step: sum(example.learnt for example in step)
    metrics = epochs.run(
        loop, fitting, plan, settings.epochs,
        parts=lambda mine: microbatches(mine, most_tokens), loss=loss, size=learnt,
        about=lambda step: {"completion_tokens": learnt(step)},
    )  # fmt: skip

    trained = loop.finish().model
    if loop.is_main:
        adapters.save(trained, policy, checkpoint.partial)
        checkpoint.finish(
            {
                "prompt": form.to_json(),
                "tokenizer": policy.tokenizer_hash,
                "examples": len(fitting),
                "steps": len(plan),
                "processes": loop.world,
            }
            | (about or {})
        )
        if metrics:
            loss_and_speed = f"last loss {metrics['loss']:.4f}, {loop.speed:,.0f} tokens/s"
            console.log(f"{len(plan)} steps on {len(fitting)} examples, {loss_and_speed}")
    accelerator.wait_for_everyone()


def prepare_model(policy: Policy, settings: Settings) -> torch.nn.Module:
    """The policy's model, with a fresh LoRA adapter on every linear layer if the settings ask for one."""
    model = policy.model
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    if settings.lora_rank:
        model = adapters.add_lora(policy, settings.lora_rank, "CAUSAL_LM", settings.seed)
    return model
