"""The outcome reward model: p(final answer correct | question, steps so far), by binary cross-entropy.

    loss = − (1 / N) Σ w [y log p + (1 − y) log(1 − p)]      over the step ends of the N solutions of a step

Every step end of a solution carries the solution's label y, as every token does in Cobbe et al. 2021 (arXiv
2110.14168). The weights balance the data: w is proportional to 1 / (n · g · e), where n solutions of the question have
this label, g questions have solutions with this label, and the solution has e step ends; their mean over solutions is
1. So an easy question weighs no more than a hard one, a rare right solution as much as all the wrong ones beside it,
and both labels the same.

Solutions do not come so balanced, and the probabilities would be off: two numbers, scale and shift of the logit, are
fitted on the held-out questions afterwards (Platt 1999) and written into the head. They change no ranking.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from reasonrl import console, jsonl
from reasonrl.errors import ReasonRLError
from reasonrl.models import adapters
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.models.policy import Policy
from reasonrl.models.verifier import head
from reasonrl.rewards import calibration, orm
from reasonrl.rewards.orm import Solution
from reasonrl.tasks.prompts import PromptForm
from reasonrl.training import epochs
from reasonrl.training.batching import batches
from reasonrl.training.loop import Loop, Optimisation, make_accelerator

HELD_OUT = "held_out.json"
JUDGED = "held_out.jsonl"
RELIABILITY = "reliability.png"


@dataclass(frozen=True)
class Settings:
    """`prefixes`: "all" labels every step end, "final" only the end of the solution."""

    epochs: float = 2
    batch_size: int = 64
    optimisation: Optimisation = Optimisation(learning_rate=1e-5, final_learning_rate=1e-7)
    prefixes: str = "all"
    held_out: float = 0.1  # of the questions
    batch_tokens: int | None = None
    max_length: int | None = None
    lora_rank: int = 0
    lora_layers: int | None = None  # adapt the last so many only
    gradient_checkpointing: bool = False
    save_every: int = 200
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """A solution and whether its final answer is right. `weight` is 1 in the mean."""

    question: str  # the question's id
    solution: Solution
    label: bool
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.solution)


@dataclass(frozen=True)
class Microbatch:
    """What one forward pass takes. input_ids: (B, T), padded on the right. N step ends of these B solutions stand at
    (rows, places), each (N,), with labels and weights, (N,) float32."""

    input_ids: torch.Tensor
    rows: torch.Tensor
    places: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor

    def to(self, device: torch.device) -> "Microbatch":
        return Microbatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def is_held_out(question: str, fraction: float, seed: int) -> bool:
    """Whether a question is kept from training. It depends on its id and the seed alone."""
    digest = hashlib.blake2b(f"{seed}/{question}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < fraction * 2**64


def balanced(examples: Sequence[Example]) -> list[Example]:
    """The examples with their weights (see above), mean 1. Raises ReasonRLError if all labels are equal."""
    solutions = Counter((example.question, example.label) for example in examples)
    questions = Counter(label for _, label in solutions)
    if len(questions) < 2:
        what = "correct" if any(example.label for example in examples) else "wrong"
        raise ReasonRLError(f"all {len(examples)} solutions are {what}: there is nothing to tell apart; sample more")
    scale = len(examples) / 2
    return [
        Example(e.question, e.solution, e.label, scale / (solutions[e.question, e.label] * questions[e.label]))
        for e in examples
    ]


def collate(examples: Sequence[Example], prefixes: str) -> Microbatch:
    """Pads to the longest solution. A solution's weight is shared among its step ends."""
    input_ids = torch.zeros((len(examples), max(map(len, examples))), dtype=torch.long)
    rows, places, labels, weights = [], [], [], []
    for row, example in enumerate(examples):
        input_ids[row, : len(example)] = torch.tensor(example.solution.ids)
        ends = example.solution.ends if prefixes == "all" else example.solution.ends[-1:]
        rows += [row] * len(ends)
        places += ends
        labels += [float(example.label)] * len(ends)
        weights += [example.weight / len(ends)] * len(ends)
    return Microbatch(input_ids, torch.tensor(rows), torch.tensor(places), torch.tensor(labels), torch.tensor(weights))


def train(
    verifier: Policy,
    examples: Sequence[Example],
    form: PromptForm,
    settings: Settings,
    checkpoint: Checkpoint,
    *,
    device: str | None = None,
    dtype: str = "auto",
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains `verifier` (see `models.verifier`) and writes the finished checkpoint; `about` goes into its marker.

    Returns what it is worth on the held-out questions ({} without any, and on all ranks but the first).
    """
    accelerator = make_accelerator(device, dtype)
    checkpoint.open()
    accelerator.wait_for_everyone()
    longest = min(settings.max_length or verifier.context, verifier.context)
    fitting = [example for example in examples if len(example) <= longest]
    if len(fitting) < len(examples):
        console.warn(f"left out {len(examples) - len(fitting)} solutions of more than {longest} tokens")
    kept_away = [example for example in fitting if is_held_out(example.question, settings.held_out, settings.seed)]
    learnt = balanced([e for e in fitting if not is_held_out(e.question, settings.held_out, settings.seed)])

    plan = batches(len(learnt), settings.batch_size, settings.epochs, settings.seed)
    model = verifier.model
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    if settings.lora_rank:
        model = adapters.add_lora(verifier, settings.lora_rank, "TOKEN_CLS", settings.seed, settings.lora_layers)
    loop = Loop(
        accelerator, model, settings.optimisation, len(plan), checkpoint, settings.save_every, settings.seed
    )  # fmt: skip
    most_tokens = settings.batch_tokens or (1 << 13 if accelerator.device.type == "cpu" else 1 << 14)

    def loss(part: Microbatch) -> torch.Tensor:
        logits = loop.model(input_ids=part.input_ids, use_cache=False).logits[part.rows, part.places, 0]
        return binary_cross_entropy_with_logits(logits.float(), part.labels, part.weights, reduction="sum")

    def parts(mine: Sequence[Example]) -> list[Microbatch]:
        return [collate([mine[i] for i in part], settings.prefixes) for part in orm.batches(mine, most_tokens)]

    metrics = epochs.run(loop, learnt, plan, settings.epochs, parts=parts, loss=loss)

    trained = loop.finish()
    report = {}
    if loop.is_main:
        if metrics:
            console.log(
                f"{len(plan)} steps on {len(learnt)} solutions of {len({e.question for e in learnt})} questions, "
                f"last loss {metrics['loss']:.4f}, {loop.speed:,.0f} tokens/s"
            )
        if kept_away:
            report, chances = _hold_out(trained.eval(), kept_away, most_tokens, settings.seed)
            jsonl.write_json(checkpoint.partial / HELD_OUT, report)
            with closing(jsonl.Log(checkpoint.partial / JUDGED, lambda _: False)) as judged:
                for example, of_steps in zip(kept_away, chances, strict=True):
                    judged.write({"id": example.question, "correct": example.label, "step_values": of_steps.tolist()})
            calibration.plot_reliability(report["bins"], checkpoint.partial / RELIABILITY)
        adapters.save(trained, verifier, checkpoint.partial)
        checkpoint.finish(
            {
                "prompt": form.to_json(),
                "tokenizer": verifier.tokenizer_hash,
                "examples": len(learnt),
                "steps": len(plan),
                "processes": loop.world,
                "held_out": {name: value for name, value in report.items() if name not in ("bins", "by_step")},
            }
            | (about or {})
        )
    accelerator.wait_for_everyone()
    return report


def _hold_out(
    model: torch.nn.Module, examples: Sequence[Example], most_tokens: int, seed: int
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Fits scale and shift of the head on the held-out solutions and says what the model is worth on them: a report,
    and for each solution the probability at each of its step ends.

    The probabilities that are reported are honest: each half of the questions is judged with the two numbers fitted
    on the other half.
    """
    logits = orm.logits(model, [example.solution for example in examples], most_tokens)
    question = np.array([example.question for example in examples])
    label = np.array([float(example.label) for example in examples])
    last = np.array([of_steps[-1] for of_steps in logits])
    half = np.array([is_held_out(f"half/{one}", 0.5, seed) for one in question])
    scale, shift = calibration.platt(last, label)
    numbers = np.array([calibration.platt(last[half != side], label[half != side]) for side in half])
    honest = [1 / (1 + np.exp(-(a * np.array(of_steps) + b))) for of_steps, (a, b) in zip(logits, numbers, strict=True)]
    with torch.no_grad():
        output = head(model)
        output.weight.mul_(scale)
        output.bias.mul_(scale).add_(shift)
    return calibration.report(honest, label, question, seed) | {"scale": scale, "shift": shift}, honest
