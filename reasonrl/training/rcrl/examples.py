"""Return-conditioned RL (Havrilla et al. 2024, arXiv 2403.04642, in the manner of Chen et al. 2021, 2106.01345).

A solution is read with a label before each step: [GOOD] where the step's value is at least the threshold, else [BAD].
The value of a step is the mean return of completions of the prefix that ends with it (see `labelling`). A policy is
fine-tuned from the base on such text, by the likelihood of steps and EOS given question, labels and earlier steps:

    loss = − (1 / N) Σ log π(token | prompt, labels and tokens before it)     over the N learned tokens of an update

and then sampled with [GOOD] before every step. Labels are read and never learned. This file turns labelled records into
examples, as many right as wrong solutions and as many good as bad steps; `likelihood` does the learning.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reasonrl.errors import ReasonRLError, RecordError
from reasonrl.grading.steps import steps
from reasonrl.io.records import Record
from reasonrl.models.labels import Labels, StepEncoder, Steps, interleave
from reasonrl.models.tokens import prompt_text
from reasonrl.prompts import PromptForm
from reasonrl.training.batching import Example


@dataclass(frozen=True)
class LabelledSolution:
    """A solution with the label of each of its steps. It is right if its last step is good: that one's value is the
    solution's own return."""

    question: str
    prompt_ids: list[int]
    steps: Steps
    good: list[bool]

    @property
    def right(self) -> bool:
        return self.good[-1]


def labels_of(values: Sequence[float], threshold: float, labels: Labels) -> list[str]:
    """The names of the labels that values of steps earn."""
    good, bad = labels.names
    return [good if value >= threshold else bad for value in values]


def to_solution(
    record: Record, encode: StepEncoder, form: PromptForm, labels: Labels, threshold: float | None
) -> LabelledSolution | None:
    """A labelled record's solution; None for one without a step. With a threshold, labels are made from
    `step_values.mc`, else they are the record's own.

    Raises RecordError where they are missing or do not fit the steps.
    """
    names = record.get("labels")
    values: Any = (record.get("step_values") or {}).get("mc")
    has_values = type(values) is list and all(type(value) in (int, float) for value in values)
    if threshold is not None or names is None:
        if not has_values:
            raise RecordError(
                'no numbers in "step_values.mc" and no "labels" (`reasonrl rcrl --save-data` writes both)'
            )
        names = labels_of(values, 0.5 if threshold is None else threshold, labels)
    if type(record.get("completion")) is not str:
        raise RecordError('no text in field "completion"')
    count = len(steps(record["completion"]))
    if type(names) is not list or len(names) != count or not set(names) <= set(labels.names):
        raise RecordError(f"want {count} labels, one per step, each {' or '.join(labels.names)}")
    if not count:
        return None
    prompt_ids = encode.encode_prompt(prompt_text(record, form, encode.policy.tokenizer))
    good = [name == labels.names[0] for name in names]
    return LabelledSolution(str(record.get("id")), prompt_ids, encode(record), good)


def balance(
    solutions: Sequence[LabelledSolution], seed: int
) -> tuple[list[tuple[LabelledSolution, list[bool]]], dict[str, Any]]:
    """Chooses what is learned → solutions with which of their steps are, and counts.

    Each solution of a question is taken once. Of right and wrong ones, those that are more are thinned out at random
    until there are as many of both; then, of good and bad steps, those that are more: these are still read, with their
    labels, but not learned. Raises ReasonRLError if there is only one kind of either.
    """
    distinct = list({(one.question, tuple(one.steps.ids)): one for one in solutions}.values())
    draw = random.Random(seed)
    right = [i for i, one in enumerate(distinct) if one.right]
    wrong = [i for i, one in enumerate(distinct) if not one.right]
    size = min(len(right), len(wrong))
    if not size:
        what = "right" if right else "wrong"
        raise ReasonRLError(f"all {len(distinct)} solutions are {what}: no label to tell apart; take other problems")
    kept = [distinct[i] for i in sorted(draw.sample(right, size) + draw.sample(wrong, size))]
    places: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for i, one in enumerate(kept):
        for step, good in enumerate(one.good):
            places[good].append((i, step))
    steps_each = min(map(len, places.values()))
    if not steps_each:
        raise ReasonRLError(f"{len(places[True])} good and {len(places[False])} bad steps: no label to tell apart")
    learned = {place for label in (True, False) for place in draw.sample(places[label], steps_each)}
    chosen = [(one, [(i, step) in learned for step in range(one.steps.count)]) for i, one in enumerate(kept)]
    counts = {
        "solutions": len(solutions), "distinct": len(distinct), "right": len(right), "wrong": len(wrong),
        "kept": len(kept), "good_steps": len(places[True]), "bad_steps": len(places[False]),
        "learnt_steps": 2 * steps_each,
    }  # fmt: skip
    return [one for one in chosen if any(one[1])], counts


def to_example(solution: LabelledSolution, learned: list[bool], label_ids: tuple[list[int], list[int]]) -> Example:
    """What a solution teaches: its tokens with labels between them, of which those of the learned steps are learned.

    label_ids: of the good and the bad label. EOS belongs to the last step; where that ends with a newline, its label
    stands once more before EOS.
    """
    good, bad = label_ids
    steps = solution.steps
    extra = len(steps.starts) - steps.count  # 1 where EOS stands after a newline
    labels = [good if is_good else bad for is_good in [*solution.good, *solution.good[-1:] * extra]]
    ids, segments = interleave(steps.ids, steps.starts, labels)
    is_learned = [*learned, *learned[-1:] * extra]
    mask = [segment >= 0 and is_learned[segment] for segment in segments]
    end = max((i + 1 for i, in_loss in enumerate(mask) if in_loss), default=0)  # what follows changes no loss
    return Example(solution.prompt_ids, ids[:end], mask[:end])
