"""95% intervals: over questions by the bootstrap, over seeds by Student's t. Never imports torch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 4000  # of the bootstrap


class Estimate(NamedTuple):
    """A mean over `n` questions with a 95% interval."""

    value: float
    low: float
    high: float
    n: int


class Bootstrap:
    """The percentile bootstrap over questions (Efron 1979), one set of resamples for all metrics of n questions."""

    def __init__(self, n: int, seed: int = 0):
        self.n = n
        random = np.random.default_rng(seed)
        self.counts = np.empty((RESAMPLES, n), dtype=np.float32)  # whole numbers: sums of 0s and 1s come out exact
        for rows in np.array_split(self.counts, 16):  # a block at a time: the draws are wider than the counts
            rows[:] = random.multinomial(n, np.full(n, 1 / n), size=len(rows))

    def estimate(self, values: Sequence[float]) -> Estimate:
        """values: one per question → their mean, and the 2.5% and 97.5% points of the resampled means."""
        given = np.asarray(values, dtype=np.float64)
        means = (self.counts @ given.astype(np.float32)).astype(np.float64) / self.n
        low, high = np.quantile(means, (0.025, 0.975))
        return Estimate(float(given.mean()), float(low), float(high), self.n)


def seed_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and its 95% interval by Student's t. One seed has no interval: (mean, mean, mean)."""
    given = np.asarray(values, dtype=np.float64)
    mean = float(given.mean())
    if len(values) < 2:
        return mean, mean, mean
    half = t975(len(values) - 1) * float(given.std(ddof=1)) / len(values) ** 0.5
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
