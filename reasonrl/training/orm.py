"""The outcome reward model: p(final answer correct | question, steps so far), by binary cross-entropy.

    loss = − (1 / N) Σ w [y log p + (1 − y) log(1 − p)]      over the step ends of the N solutions of a step

Every step end of a solution carries the solution's label y, as every token does in Cobbe et al. 2021 (arXiv
2110.14168). The weights balance the data: w is proportional to 1 / (n · g · e), where n solutions of the question have
this label, g questions have solutions with this label, and the solution has e step ends; their mean over solutions is
1. So an easy question weighs no more than a hard one, a rare right solution as much as all the wrong ones beside it,
and both labels the same.

With `lm_weight` the trunk goes on learning to write the right solutions, as the verifier of Cobbe et al. does: added is

    − lm_weight · (1 / N) Σ w log p(token | question, tokens before)      over the tokens of the right solutions

where now e in w is the number of the solution's tokens.

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
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from reasonrl import console, jsonl
from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.models import adapters
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.models.policy import Policy
from reasonrl.models.verifier import head
from reasonrl.rewards import calibration, orm
from reasonrl.rewards.orm import Solution
from reasonrl.tasks.prompts import PromptForm
from reasonrl.training import epochs
from reasonrl.training.batching import batches, pass_tokens
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
    lm_weight: float = 0.0
    share_prompts: bool = False  # one pass over a question for all its solutions
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
class Row:
    """Solutions that go through the model in one sequence: one, or several behind the `prompt` tokens they share."""

    examples: Sequence[Example]
    prompt: int = 0

    def __len__(self) -> int:
        return self.prompt + sum(len(example) - self.prompt for example in self.examples)


@dataclass(frozen=True)
class Microbatch:
    """What one forward pass takes. input_ids: (B, T), padded on the right. N step ends of the solutions in these B rows
    stand at (rows, places), each (N,), with labels and weights, (N,) float32. The M `tokens` of right solutions come
    next after (token_rows, token_places), each (M,), with token_weights.

    Where rows hold several solutions, `positions` (B, T) go on from the prompt in each of them, and `mask` (B, 1, T, T)
    lets a solution see the prompt and itself; else both are None.
    """

    input_ids: torch.Tensor
    rows: torch.Tensor
    places: torch.Tensor
    token_rows: torch.Tensor
    token_places: torch.Tensor
    tokens: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    token_weights: torch.Tensor
    positions: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Microbatch":
        parts = (getattr(self, name) for name in self.__dataclass_fields__)
        return Microbatch(*(part if part is None else part.to(device) for part in parts))


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


def in_rows(examples: Sequence[Example], share_prompts: bool) -> list[Row]:
    """A row for each example; with `share_prompts` for each question and prompt."""
    if not share_prompts:
        return [Row([example]) for example in examples]
    found: dict[tuple[str, tuple[int, ...]], list[Example]] = {}
    for example in examples:
        prompt = tuple(example.solution.ids[: example.solution.prompt])
        found.setdefault((example.question, prompt), []).append(example)
    return [Row(together, len(prompt)) for (_, prompt), together in found.items()]


def collate(batch: Sequence[Row], prefixes: str) -> Microbatch:
    """Pads to the longest row. A solution's weight is shared among its step ends."""
    shape = len(batch), max(map(len, batch))
    input_ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    owner = torch.full(shape, -1)  # whose a position is: 0 the prompt's, 1 … the solutions', -1 nobody's
    rows, places, labels, weights = [], [], [], []
    token_rows, token_places, tokens, token_weights = [], [], [], []
    for number, row in enumerate(batch):
        start = row.prompt
        input_ids[number, :start] = torch.tensor(row.examples[0].solution.ids[:start])
        positions[number, :start] = torch.arange(start)
        owner[number, :start] = 0
        for which, example in enumerate(row.examples, 1):
            ids, shift = example.solution.ids, start - row.prompt
            here = slice(start, len(ids) + shift)
            input_ids[number, here] = torch.tensor(ids[row.prompt :])
            positions[number, here] = torch.arange(row.prompt, len(ids))
            owner[number, here] = which
            ends = example.solution.ends if prefixes == "all" else example.solution.ends[-1:]
            rows += [number] * len(ends)
            places += [end + shift for end in ends]
            labels += [float(example.label)] * len(ends)
            weights += [example.weight / len(ends)] * len(ends)
            if example.label:
                learnt = range(max(1, example.solution.prompt), len(ids))
                token_rows += [number] * len(learnt)
                token_places += [place - 1 + (shift if place > row.prompt else 0) for place in learnt]
                tokens += ids[learnt.start :]
                token_weights += [example.weight / len(learnt)] * len(learnt)
            start = here.stop
    shared = ()
    if any(len(row.examples) > 1 for row in batch):
        seen, seer = owner[:, None, :], owner[:, :, None]
        shared = positions, (((seen == 0) | (seen == seer)) & torch.ones(shape[1], shape[1]).tril().bool())[:, None]
    whole = [torch.tensor(part, dtype=torch.long) for part in (rows, places, token_rows, token_places, tokens)]
    real = [torch.tensor(part, dtype=torch.float32) for part in (labels, weights, token_weights)]
    return Microbatch(input_ids, *whole, *real, *shared)


def weighted_loss(
    model: torch.nn.Module, part: Microbatch, output_embeddings: torch.Tensor | None = None, lm_weight: float = 0.0
) -> torch.Tensor:
    """The loss of a microbatch, summed over its solutions: see the top. output_embeddings: (vocabulary, hidden)."""
    output = model(
        input_ids=part.input_ids, attention_mask=part.mask, position_ids=part.positions, use_cache=False,
        output_hidden_states=lm_weight > 0,
    )  # fmt: skip
    logits = output.logits[part.rows, part.places, 0].float()
    loss = binary_cross_entropy_with_logits(logits, part.labels, part.weights, reduction="sum")
    if lm_weight:
        hidden = output.hidden_states[-1][part.token_rows, part.token_places]
        said = cross_entropy((hidden @ output_embeddings.to(hidden.dtype).T).float(), part.tokens, reduction="none")
        loss = loss + lm_weight * (part.token_weights * said).sum()
    return loss


def _output_embeddings(verifier: Policy, model: torch.nn.Module) -> torch.Tensor:
    """What the policy that the trunk came from says its tokens with. A token classifier keeps it only where it is the
    input embedding too."""
    if not model.config.tie_word_embeddings:
        raise UsageError(f"{verifier.name}: --lm-weight needs a model whose input and output embeddings are one")
    return model.get_input_embeddings().weight


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

    rows = in_rows(learnt, settings.share_prompts)
    at_a_time = max(1, round(settings.batch_size * len(rows) / len(learnt)))
    plan = batches(len(rows), at_a_time, settings.epochs, settings.seed)
    model = verifier.model
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    if settings.lora_rank:
        model = adapters.add_lora(verifier, settings.lora_rank, "TOKEN_CLS", settings.seed, settings.lora_layers)
        head(model).float()  # it learns, and the frozen base may be in bf16
    loop = Loop(
        accelerator, model, settings.optimisation, len(plan), checkpoint, settings.save_every, settings.seed
    )  # fmt: skip
    most_tokens = settings.batch_tokens or pass_tokens(verifier.model, accelerator.device)
    output_embeddings = _output_embeddings(verifier, model) if settings.lm_weight else None

    def loss(part: Microbatch) -> torch.Tensor:
        return weighted_loss(loop.model, part, output_embeddings, settings.lm_weight)

    def parts(mine: Sequence[Row]) -> list[Microbatch]:
        return [collate([mine[i] for i in part], settings.prefixes) for part in orm.batches(mine, most_tokens)]

    def size(step: Sequence[Row]) -> int:
        return sum(len(row.examples) for row in step)

    metrics = epochs.run(
        loop, rows, plan, settings.epochs,
        parts=parts, loss=loss, size=size, about=lambda step: {"examples": size(step)},
    )  # fmt: skip

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
    fitted = {side: calibration.platt(last[half != side], label[half != side]) for side in np.unique(half)}
    honest = []
    for of_steps, side in zip(logits, half, strict=True):
        a, b = fitted[side]
        honest.append(1 / (1 + np.exp(-(a * np.array(of_steps) + b))))
    with torch.no_grad():
        output = head(model)
        output.weight.mul_(scale)
        output.bias.mul_(scale).add_(shift)
    return calibration.report(honest, label, question, seed) | {"scale": scale, "shift": shift}, honest
