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
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.models.policy import Policy
from reasonrl.records import Record, need_text
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
    """What a record teaches: a sample its completion, a problem its reference.

    A sample's own ids are used when this tokenizer made them (decoding and encoding again may give others). EOS ends
    a completion that stopped, and never one that ran out of tokens. Raises RecordError if there is nothing to learn.
    """
    if "question" in record:
        need_text(record, "question")
        prompt = form.render(record["question"], policy.tokenizer)
    else:
        need_text(record, "prompt")
        prompt = record["prompt"]
    prompt_ids = policy.encode_prompt(prompt)
    if "completion" not in record:
        if type(record.get("reference")) is not str:
            raise RecordError('no field "completion" and no text in "reference": nothing to learn from')
        return Example(prompt_ids, [*policy.encode_completion(record["reference"]), policy.eos_id])
    need_text(record, "completion")
    text, finish = record["completion"], record.get("finish", "stop")
    ids = record.get("completion_ids") if record.get("tokenizer") == tokenizer_hash else None
    if ids and finish == "stop":
        ids = _without_stop_string(ids, text, policy)
    ids = list(ids) if ids else policy.encode_completion(text)
    if finish != "length" and ids[-1:] != [policy.eos_id]:
        if ids[-1:] and ids[-1] in policy.eos_ids:
            ids.pop()
        ids.append(policy.eos_id)
    if not ids:
        raise RecordError("an empty completion that did not end: nothing to learn from")
    return Example(prompt_ids, ids)


def _without_stop_string(ids: list[int], text: str, policy: Policy) -> list[int] | None:
    """The ids that spell `text`; None if the stop string began in the middle of a token."""
    for length in range(len(ids), -1, -1):
        shown = policy.decode([ids[:length]])[0]
        if shown == text:
            return ids[:length]
        if len(shown) < len(text):
            break
    return None


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
        save(trained, policy, checkpoint, settings)
        checkpoint.finish(
            {"prompt": form.to_json(), "tokenizer": policy.tokenizer_hash, "examples": len(fitting), "steps": len(plan)}
            | (about or {})
        )
        if plan:
            console.log(
                f"{len(plan)} steps on {len(fitting)} examples, last loss {metrics['loss']:.4f}, {loop.speed:,.0f} tokens/s"
            )
    accelerator.wait_for_everyone()


def prepare_model(policy: Policy, settings: Settings) -> torch.nn.Module:
    """The policy's model, with a fresh LoRA adapter on every linear layer if the settings ask for one."""
    model = policy.model
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    if settings.lora_rank:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(settings.seed)
        config = LoraConfig(
            r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, config)
    return model


def save(model: torch.nn.Module, policy: Policy, checkpoint: Checkpoint, settings: Settings) -> None:
    """Weights and tokenizer into the checkpoint. An adapter trained on a merged adapter is merged too: its base
    exists nowhere else."""
    if settings.lora_rank and checkpoint_is_adapter(policy):
        model = model.merge_and_unload()
    model.save_pretrained(checkpoint.partial)
    policy.tokenizer.save_pretrained(checkpoint.partial)


def checkpoint_is_adapter(policy: Policy) -> bool:
    from pathlib import Path

    return Path(policy.directory, "adapter_config.json").exists()
