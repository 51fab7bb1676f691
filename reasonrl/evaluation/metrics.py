"""maj@k, pass@k and rerank@k. Pure functions on small arrays; never imports torch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reasonrl.evaluation.intervals import Bootstrap
from reasonrl.io.records import Record


class GradedSample(NamedTuple):
    """What the estimators need to know of a sample."""

    extracted: str | None
    correct: bool
    orm: float | None = None


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k of n samples, drawn without replacement, hold one of the c correct ones.

    1 − C(n−c, k) / C(n, k), unbiased for the chance that k fresh samples do (Chen et al. 2021, arXiv 2107.03374).
    Raises ValueError if k > n.
    """
    if k > n:
        raise ValueError(f"pass@{k} needs {k} samples, there are {n}")
    if n - c < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def maj_at_k(samples: Sequence[GradedSample], k: int) -> bool:
    """Whether the answer that most of the first k samples give is correct.

    Answers are grouped by their canonical spelling. A sample without an answer has no vote; of answers with equal
    votes the one given first wins; if no sample has an answer, the question is wrong.
    """
    votes: dict[str, int] = {}
    verdict: dict[str, bool] = {}
    for sample in samples[:k]:
        if sample.extracted is not None:
            votes[sample.extracted] = votes.get(sample.extracted, 0) + 1
            verdict.setdefault(sample.extracted, sample.correct)
    return bool(votes) and verdict[max(votes, key=votes.__getitem__)]


def rerank_at_k(samples: Sequence[GradedSample], k: int) -> bool:
    """Whether the sample with the highest ORM score among the first k is correct; the first of equals counts."""
    return max(samples[:k], key=lambda sample: sample.orm if sample.orm is not None else -np.inf).correct


def powers_up_to(n: int) -> list[int]:
    """1, 2, 4, … and n itself."""
    ks = [1 << i for i in range(n.bit_length()) if 1 << i < n]
    return [*ks, n]


def greedy_metrics(samples: Sequence[GradedSample], seed: int = 0) -> list[Record]:
    """maj@1 of greedy samples, one per question."""
    if not samples:
        return []
    return [_metric("maj", 1, [sample.correct for sample in samples], Bootstrap(len(samples), seed))]


def sampled_metrics(groups: Sequence[Sequence[GradedSample]], seed: int = 0) -> list[Record]:
    """maj, pass and rerank of the samples of each question, at powers of two and at the number sampled.

    Where questions have different numbers of samples the smallest is the largest k. rerank needs every ORM score.
    """
    if not groups:
        return []
    bootstrap = Bootstrap(len(groups), seed)
    correct = [sum(sample.correct for sample in group) for group in groups]
    scored = all(sample.orm is not None for group in groups for sample in group)
    metrics = []
    for k in powers_up_to(min(map(len, groups))):
        if k > 1:
            metrics.append(_metric("maj", k, [maj_at_k(group, k) for group in groups], bootstrap))
            if scored:
                metrics.append(_metric("rerank", k, [rerank_at_k(group, k) for group in groups], bootstrap))
        passes = [pass_at_k(len(group), c, k) for group, c in zip(groups, correct, strict=True)]
        metrics.append(_metric("pass", k, passes, bootstrap))
    return sorted(metrics, key=lambda metric: (metric["name"], metric["k"]))


def _metric(name: str, k: int, values: Sequence[float], bootstrap: Bootstrap) -> Record:
    return {"name": name, "k": k} | bootstrap.estimate(values)._asdict()
