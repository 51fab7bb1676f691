"""maj@k, pass@k, rerank@k and their intervals. Pure functions on small arrays; never imports torch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reasonrl.records import Record

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


class Bootstrap:
    """The percentile bootstrap over questions (Efron 1979), one set of resamples for all metrics of n questions."""

    def __init__(self, n: int, seed: int = 0):
        self.n = n
        random = np.random.default_rng(seed)
        self.counts = np.empty((RESAMPLES, n), dtype=np.float32)  # whole numbers: sums of 0s and 1s come out exact
        for rows in np.array_split(self.counts, 16):  # a block at a time: the draws are wider than the counts
            rows[:] = random.multinomial(n, np.full(n, 1 / n), size=len(rows))

    def estimate(self, values: Sequence[float]) -> Estimate:
        """values: one a question → their mean, and the 2.5% and 97.5% points of the resampled means."""
        values = np.asarray(values, dtype=np.float64)
        means = (self.counts @ values.astype(np.float32)).astype(np.float64) / self.n
        low, high = np.quantile(means, (0.025, 0.975))
        return Estimate(float(values.mean()), float(low), float(high), self.n)


def greedy_metrics(judged: Sequence[Judged], seed: int = 0) -> list[Record]:
    """maj@1 of greedy samples, one a question."""
    if not judged:
        return []
    return [_metric("maj", 1, [sample.correct for sample in judged], Bootstrap(len(judged), seed))]


def sampled_metrics(groups: Sequence[Sequence[Judged]], seed: int = 0) -> list[Record]:
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


def seed_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and its 95% interval by Student's t. One seed has no interval: (mean, mean, mean)."""
    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, mean, mean
    half = t975(len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half


def t975(freedom: int) -> float:
    """The 97.5% point of Student's t: from a table up to 30 degrees of freedom, beyond from its expansion about the
    normal distribution's 1.96 (Abramowitz and Stegun 26.7.5), where two terms are good for four digits."""
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
