"""Supervised fine-tuning: maximum likelihood of completions, given their prompts.

    loss = − (1 / N) Σ log π(token | prompt, tokens before it)     over the N completion tokens of a step

The mean is over the tokens of the whole step, whatever the microbatches and ranks, so neither changes the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reasonrl import console
from reasonrl.errors import ReasonRLError, RecordError
from reasonrl.models import adapters
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.models.encoding import completion_ids, prompt_text
from reasonrl.models.policy import Policy
from reasonrl.records import Record
from reasonrl.tasks.prompts import PromptForm
from reasonrl.training.batching import Example, Microbatch, batches, microbatches, share
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


def to_example(record: Record, policy: Policy, form: PromptForm, tokenizer_hash: str) -> Example:
    """What a record teaches: a sample its completion (see `models.encoding`), a problem its reference.

    Raises RecordError if there is nothing to learn.
    """
    prompt_ids = policy.encode_prompt(prompt_text(record, form, policy.tokenizer))
    if "completion" not in record:
        if type(record.get("reference")) is not str:
            raise RecordError('no field "completion" and no text in "reference": nothing to learn from')
        return Example(prompt_ids, [*policy.encode_completion(record["reference"]), policy.eos_id])
    ids = completion_ids(record, policy, tokenizer_hash)
    if not ids:
        raise RecordError("an empty completion that did not end: nothing to learn from")
    return Example(prompt_ids, ids)


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
    checkpoint.open()
    accelerator.wait_for_everyone()
    longest = min(settings.max_length or policy.context, policy.context)
    fitting = [example for example in examples if len(example) <= longest]
    if len(fitting) < len(examples):
        console.warn(f"left out {len(examples) - len(fitting)} examples of more than {longest} tokens")
    if not fitting:
        raise ReasonRLError(f"no example of at most {longest} tokens to train on")

    plan = batches(len(fitting), settings.batch_size, settings.epochs, settings.seed)
    model = prepare_model(policy, settings)
    loop = Loop(
        accelerator,
        TokenLogprobs(model),
        settings.optimisation,
        len(plan),
        checkpoint,
        settings.save_every,
        settings.seed,
    )
    most_tokens = settings.batch_tokens or (1 << 13 if accelerator.device.type == "cpu" else 1 << 14)
    rank, world = accelerator.process_index, accelerator.num_processes
    loop.model.train()

    with console.progress("training", total=len(plan)) as advance:
        for indices in loop.steps(plan):
            step = [fitting[i] for i in indices]
            learnt = sum(len(example.completion_ids) for example in step)
            # A rank without a share in a small last batch goes through the motions with an example that weighs nothing.
            mine, weight = share(step, rank, world), 1.0
            if not mine:
                mine, weight = step[:1], 0.0

            def loss(part: Microbatch, weight: float = weight, learnt: int = learnt) -> torch.Tensor:
                return -weight * loop.model(part.input_ids, part.learnt, part.targets).sum() / learnt

            metrics = loop.update(list(microbatches(mine, most_tokens, policy.pad_id)), loss)
            epoch = (loop.step + 1) * settings.epochs / len(plan)
            loop.log(metrics | {"epoch": round(epoch, 4), "examples": len(step), "completion_tokens": learnt})
            advance(loop.step + 1, f"loss {metrics['loss']:.3f}, {loop.speed:,.0f} tokens/s")

    trained = loop.finish().model
    if loop.is_main:
        adapters.save(trained, policy, checkpoint.partial)
        checkpoint.finish(
            {
                "prompt": form.to_json(),
                "tokenizer": policy.tokenizer_hash,
                "examples": len(fitting),
                "steps": len(plan),
                "processes": world,
            }
            | (about or {})
        )
        if plan:
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
