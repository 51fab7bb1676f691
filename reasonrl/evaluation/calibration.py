"""How good a verifier is: accuracy, AUC, calibration. Pure functions on small arrays; never imports torch.

`score` (or `probability`) and `label` (0 or 1) hold one number per solution; `question` says whose solution it is.
What is not defined, such as the AUC of equal labels, is nan, which JSON shows as null.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from reasonrl.evaluation.intervals import RESAMPLES, Estimate

BINS = 10


def auc(score: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Chance that a right solution scores higher than a wrong one, ties counting half (Hanley & McNeil 1982).

    nan where all labels are equal.
    """
    weight = np.ones(len(score)) if weight is None else weight
    order = np.argsort(score, kind="stable")
    score, right, wrong = score[order], (weight * label)[order], (weight * (1 - label))[order]
    starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]]) if len(score) else np.zeros(0, int)
    right, wrong = np.add.reduceat(right, starts), np.add.reduceat(wrong, starts)  # one number for each tie
    pairs = right.sum() * wrong.sum()
    return float((right * (wrong.cumsum() - wrong / 2)).sum() / pairs) if pairs else float("nan")


def auc_interval(score: np.ndarray, label: np.ndarray, question: np.ndarray, seed: int = 0) -> Estimate:
    """AUC with its 95% percentile bootstrap over questions; `n` is their number."""
    _, group = np.unique(question, return_inverse=True)
    n = int(group.max()) + 1
    dice = np.random.default_rng(seed)
    draws = (dice.multinomial(n, np.full(n, 1 / n)) for _ in range(RESAMPLES // 4))
    values = [auc(score, label, count[group].astype(float)) for count in draws]
    low, high = np.nanquantile(values, (0.025, 0.975))
    return Estimate(auc(score, label), float(low), float(high), n)


def auc_within(score: np.ndarray, label: np.ndarray, question: np.ndarray) -> float:
    """The mean AUC over questions that have both right and wrong solutions: what reranking can build on."""
    parts = [auc(score[question == one], label[question == one]) for one in np.unique(question)]
    return float(np.nanmean(parts)) if not np.all(np.isnan(parts)) else float("nan")


def accuracy(probability: np.ndarray, label: np.ndarray) -> float:
    """The fraction that a threshold of one half classifies rightly."""
    return float(((probability >= 0.5) == (label == 1)).mean())


class Bin(NamedTuple):
    """The solutions whose probability falls into [low, high): their number, mean probability, and fraction right."""

    low: float
    high: float
    count: int  # type: ignore[assignment]  # the name, which held_out.json has too, hides a method of tuples
    probability: float | None
    right: float | None

    @property
    def gap(self) -> float:
        """How far the mean probability is from the fraction right, of a bin that is not empty."""
        assert self.probability is not None and self.right is not None
        return abs(self.probability - self.right)


def reliability(probability: np.ndarray, label: np.ndarray) -> list[Bin]:
    """Ten bins of equal width over [0, 1]; an empty bin has no means."""
    number = np.minimum((probability * BINS).astype(int), BINS - 1)
    bins = []
    for index in range(BINS):
        inside = number == index
        count = int(inside.sum())
        means = (float(probability[inside].mean()), float(label[inside].mean())) if count else (None, None)
        bins.append(Bin(index / BINS, (index + 1) / BINS, count, *means))
    return bins


def expected_calibration_error(bins: list[Bin]) -> float:
    """Mean distance of a bin's probability from its fraction right, weighted by count (Naeini et al. 2015)."""
    total = sum(part.count for part in bins)
    return sum(part.count * part.gap for part in bins if part.count) / max(1, total)


def platt(logit: np.ndarray, label: np.ndarray, iterations: int = 50) -> tuple[float, float]:
    """Scale a > 0 and shift b for which sigmoid(a · logit + b) is most likely (Platt 1999), by Newton's method.

    As Platt does, labels are drawn a little towards one half, so that separable data have a finite answer.
    """
    right = label.sum()
    target = np.where(label == 1, (right + 1) / (right + 2), 1 / (len(label) - right + 2))
    features = np.stack([logit, np.ones(len(logit))], 1)
    fit = np.array([1.0, 0.0])
    for _ in range(iterations):
        p = 1 / (1 + np.exp(-np.clip(features @ fit, -50, 50)))
        gradient = features.T @ (p - target)
        curvature = (features * (p * (1 - p))[:, None]).T @ features + 1e-6 * np.eye(2)
        newton = np.linalg.solve(curvature, gradient)
        fit -= newton * min(1.0, 4 / max(1e-12, float(np.abs(newton).max())))
    return max(0.01, float(fit[0])), float(fit[1])  # a ranking that is worse than none is kept, and reported


def report(steps: Sequence[np.ndarray], label: np.ndarray, question: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """What a verifier is worth. steps: for each solution the probability at each of its step ends, in order.

    All but `by_step` is about whole solutions, at their end.
    """
    final = np.array([of_steps[-1] for of_steps in steps])
    bins = reliability(final, label)
    by_step = []
    for number in range(max(map(len, steps))):
        has_step = np.array([len(of_steps) > number for of_steps in steps])
        probability = np.array([of_steps[number] for of_steps in steps if len(of_steps) > number])
        by_step.append(
            {
                "step": number + 1,
                "n": len(probability),
                "accuracy": accuracy(probability, label[has_step]),
                "auc": auc(probability, label[has_step]),
            }
        )
    whole = auc_interval(final, label, question, seed)
    return {
        "questions": whole.n,
        "solutions": len(label),
        "right": float(label.mean()),
        "accuracy": accuracy(final, label),
        "auc": whole.value,
        "auc_low": whole.low,
        "auc_high": whole.high,
        "auc_within": auc_within(final, label, question),
        "ece": expected_calibration_error(bins),
        "by_step": by_step,
        "bins": [part._asdict() for part in bins],
    }
