"""maj@k, pass@k, rerank@k and their intervals. Pure functions on small arrays; never imports torch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 4000  # of the bootstrap


class Judged(NamedTuple):
    """What the estimators need to know of a sample."""

    extracted: str | None
    correct: bool
    orm: float | None = None


class Estimate(NamedTuple):
    """A mean over `n` questions with a 95% interval."""

    value: float
    low: float
    high: float
    n: int


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


def maj_at_k(samples: Sequence[Judged], k: int) -> bool:
    """Whether the answer that most of the first k samples give is correct.

    Answers are grouped by their canonical spelling. A sample without an answer has no vote; of answers with equal
    votes the one given first wins; if nobody answers, the question is wrong.
    """
    votes: dict[str, int] = {}
    verdict: dict[str, bool] = {}
    for sample in samples[:k]:
        if sample.extracted is not None:
            votes[sample.extracted] = votes.get(sample.extracted, 0) + 1
            verdict.setdefault(sample.extracted, sample.correct)
    return bool(votes) and verdict[max(votes, key=votes.__getitem__)]


def rerank_at_k(samples: Sequence[Judged], k: int) -> bool:
    """Whether the sample with the highest ORM score among the first k is correct; the first of equals counts."""
    return max(samples[:k], key=lambda sample: sample.orm if sample.orm is not None else -np.inf).correct


def powers_up_to(n: int) -> list[int]:
    """1, 2, 4, … and n itself."""
    ks = [1 << i for i in range(n.bit_length()) if 1 << i < n]
    return [*ks, n]


def unique_solutions(chains: Sequence[str]) -> int:
    """How many different solutions there are, told apart by their chain of equations."""
    return len(set(chains))


class Bootstrap:
    """The percentile bootstrap over questions (Efron 1979), with one set of resamples for all metrics of n questions."""

    def __init__(self, n: int, seed: int = 0):
        self.n = n
        draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        self.weights = draws.astype(np.float32) / n

    def estimate(self, values: Sequence[float]) -> Estimate:
        """values: one a question → their mean, and the 2.5% and 97.5% points of the resampled means."""
        values = np.asarray(values, dtype=np.float64)
        low, high = np.quantile(self.weights @ values.astype(np.float32), (0.025, 0.975))
        return Estimate(float(values.mean()), float(low), float(high), self.n)


def seed_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and its 95% interval by Student's t. One seed has no interval: (mean, mean, mean)."""
    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, mean, mean
    half = _T975[min(len(values) - 1, len(_T975)) - 1] * float(values.std(ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half


# 97.5% points of Student's t for 1, 2, … degrees of freedom; the last stands for all beyond.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 1.96)
