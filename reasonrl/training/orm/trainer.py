"""The outcome reward model: p(final answer correct | question, steps so far), by binary cross-entropy.

    loss = − (1 / N) Σ w [y log p + (1 − y) log(1 − p)]      over the step ends of the N solutions of an update

Every step end of a solution carries the solution's label y, as every token does in Cobbe et al. 2021 (arXiv
2110.14168). The weights balance the data: w is proportional to 1 / (n · g · e), where n solutions of the question have
this label, g questions have solutions with this label, and the solution has e step ends; their mean over solutions is
1. So an easy question weighs no more than a hard one, a rare right solution as much as all the wrong ones beside it,
and both labels the same.

With `lm_weight` the trunk continues to learn to write right solutions, as the verifier of Cobbe et al. does. Added is

    − lm_weight · (1 / N) Σ w log p(token | question, tokens before)      over the tokens of the right solutions

where now e in w is the number of the solution's tokens.

Solutions do not come so balanced, and the probabilities would be off: two numbers, scale and shift of the logit, are
fitted on the held-out questions afterwards (Platt 1999) and written into the head. They change no ranking.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import PreTrainedModel

from reasonrl import console
from reasonrl.errors import UsageError
from reasonrl.evaluation import calibration
from reasonrl.evaluation.plots import plot_reliability
from reasonrl.io import jsonl
from reasonrl.models import adapters
from reasonrl.models.batching import batches_by_length
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.models.reward_model import RewardModel, head
from reasonrl.prompts import PromptForm
from reasonrl.rewards.reward_model import logits
from reasonrl.settings import OrmSettings
from reasonrl.training import epochs
from reasonrl.training.batching import pass_tokens, update_batches
from reasonrl.training.loop import Loop, enable_gradient_checkpointing, make_accelerator
from reasonrl.training.orm.examples import (
    GradedSolution,
    SolutionBatch,
    SolutionRow,
    balanced,
    collate_rows,
    in_rows,
    is_held_out,
)

HELD_OUT = "held_out.json"
STEP_VALUES = "held_out.jsonl"
RELIABILITY = "reliability.png"


def weighted_loss(
    model: PreTrainedModel, part: SolutionBatch, output_embeddings: torch.Tensor | None = None, lm_weight: float = 0.0
) -> torch.Tensor:
    """The loss of a microbatch, summed over its solutions: see the top. output_embeddings: (vocabulary, hidden)."""
    output = model(
        input_ids=part.input_ids, attention_mask=part.mask, position_ids=part.positions, use_cache=False,
        output_hidden_states=lm_weight > 0,
    )  # fmt: skip
    logits = output.logits[part.rows, part.places, 0].float()
    loss = binary_cross_entropy_with_logits(logits, part.labels, part.weights, reduction="sum")
    if lm_weight:
        assert output_embeddings is not None, "lm_weight needs output_embeddings"
        hidden = output.hidden_states[-1][part.token_rows, part.token_places]
        logits = (hidden @ output_embeddings.to(hidden.dtype).T).float()
        loss = loss + lm_weight * (part.token_weights * cross_entropy(logits, part.tokens, reduction="none")).sum()
    return loss


def _output_embeddings(reward_model: RewardModel, model: PreTrainedModel) -> torch.Tensor:
    """The output layer of the policy that the trunk came from. A token classifier keeps it only where it is the input
    embedding too."""
    if not model.config.tie_word_embeddings:
        raise UsageError(f"{reward_model.name}: --lm-weight needs a model whose input and output embeddings are one")
    return cast(nn.Embedding, model.get_input_embeddings()).weight


class Verification:
    """The objective of a Loop whose model is a token classifier."""

    def __init__(self, loop: Loop, settings: OrmSettings, max_tokens_per_batch: int, embeddings: torch.Tensor | None):
        self.loop, self.settings, self.max_tokens_per_batch = loop, settings, max_tokens_per_batch
        self.embeddings = embeddings

    def microbatches(self, rows: Sequence[SolutionRow]) -> list[SolutionBatch]:
        parts = batches_by_length([len(row) for row in rows], self.max_tokens_per_batch)
        return [collate_rows([rows[index] for index in part], self.settings.prefixes) for part in parts]

    def loss(self, part: SolutionBatch) -> torch.Tensor:
        return weighted_loss(self.loop.model, part, self.embeddings, self.settings.lm_weight)

    def size(self, rows: Sequence[SolutionRow]) -> int:
        return sum(len(row.examples) for row in rows)

    def describe(self, rows: Sequence[SolutionRow]) -> dict[str, Any]:
        return {"examples": self.size(rows)}


def train(
    reward_model: RewardModel,
    examples: Sequence[GradedSolution],
    form: PromptForm,
    settings: OrmSettings,
    checkpoint: Checkpoint,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Trains `reward_model` and writes the finished checkpoint; `about` goes into its marker.

    Returns what it is worth on the held-out questions ({} without any, and on all ranks but the first).
    """
    accelerator = make_accelerator(settings.device, settings.dtype)
    checkpoint.open()
    accelerator.wait_for_everyone()
    kept = epochs.fitting(examples, settings, reward_model.context, "solutions")
    held_out = [example for example in kept if is_held_out(example.question, settings.held_out, settings.seed)]
    training = balanced([e for e in kept if not is_held_out(e.question, settings.held_out, settings.seed)])

    rows = in_rows(training, settings.share_prompts)
    rows_per_update = max(1, round(settings.batch_size * len(rows) / len(training)))
    batches = update_batches(len(rows), rows_per_update, settings.epochs, settings.seed)
    model = prepare_model(reward_model, settings)
    loop = Loop(accelerator, model, settings, len(batches), checkpoint)
    max_tokens = settings.batch_tokens or pass_tokens(reward_model.model, accelerator.device)
    embeddings = _output_embeddings(reward_model, model) if settings.lm_weight else None
    metrics = epochs.run(loop, Verification(loop, settings, max_tokens, embeddings), rows, batches)

    trained = loop.finish()
    report: dict[str, Any] = {}
    if loop.is_main:
        if metrics:
            console.log(
                f"{len(batches)} updates on {len(training)} solutions of {len({e.question for e in training})} "
                f"questions, last loss {metrics['loss']:.4f}, {loop.speed:,.0f} tokens/s"
            )
        if held_out:
            report = _evaluate(trained.eval(), held_out, max_tokens, settings.seed, checkpoint)
        adapters.save(trained, reward_model, checkpoint.partial)
        checkpoint.finish(
            {
                "prompt": form.to_json(),
                "tokenizer": reward_model.tokenizer_hash,
                "examples": len(training),
                "updates": len(batches),
                "processes": loop.world,
                "held_out": {name: value for name, value in report.items() if name not in ("bins", "by_step")},
            }
            | about
        )
    accelerator.wait_for_everyone()
    return report


def prepare_model(reward_model: RewardModel, settings: OrmSettings) -> PreTrainedModel:
    """The model, with a fresh LoRA adapter if the settings ask for one."""
    if settings.gradient_checkpointing:
        enable_gradient_checkpointing(reward_model.model)
    if not settings.lora_rank:
        return reward_model.model
    model = adapters.add_lora(reward_model.model, settings.lora_rank, settings.seed, "TOKEN_CLS", settings.lora_layers)
    head(model).float()  # it learns, and the frozen base may be in bf16
    return model


def _evaluate(
    model: PreTrainedModel,
    examples: Sequence[GradedSolution],
    max_tokens_per_batch: int,
    seed: int,
    checkpoint: Checkpoint,
) -> dict[str, Any]:
    """Calibrates the head, and leaves in the checkpoint what the model is worth on the held-out solutions."""
    report, probabilities = calibrate(model, examples, max_tokens_per_batch, seed)
    jsonl.write_json(checkpoint.partial / HELD_OUT, report)
    with closing(jsonl.Log(checkpoint.partial / STEP_VALUES, lambda _: False)) as log:
        for example, of_steps in zip(examples, probabilities, strict=True):
            log.write({"id": example.question, "correct": example.label, "step_values": of_steps.tolist()})
    plot_reliability(report["bins"], checkpoint.partial / RELIABILITY)
    return report


def calibrate(
    model: PreTrainedModel, examples: Sequence[GradedSolution], max_tokens_per_batch: int, seed: int
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Fits scale and shift of the head on the held-out solutions and reports what the model is worth on them: a report,
    and for each solution the probability at each of its step ends.

    The probabilities that are reported are honest: each half of the questions is evaluated with the two numbers fitted
    on the other half.
    """
    per_solution = logits(model, [example.solution for example in examples], max_tokens_per_batch)
    question = np.array([example.question for example in examples])
    label = np.array([float(example.label) for example in examples])
    last = np.array([of_steps[-1] for of_steps in per_solution])
    half = np.array([is_held_out(f"half/{one}", 0.5, seed) for one in question])
    scale, shift = calibration.platt(last, label)
    fitted = {side: calibration.platt(last[half != side], label[half != side]) for side in np.unique(half)}
    honest = []
    for of_steps, side in zip(per_solution, half, strict=True):
        a, b = fitted[side]
        honest.append(1 / (1 + np.exp(-(a * np.array(of_steps) + b))))
    with torch.no_grad():
        output = head(model)
        output.weight.mul_(scale)
        output.bias.mul_(scale).add_(shift)
    return calibration.report(honest, label, question, seed) | {"scale": scale, "shift": shift}, honest
