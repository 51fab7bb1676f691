"""maj@k, pass@k, rerank@k and intervals against other ways to compute them."""

import math
from itertools import combinations
from statistics import mean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.evaluation.intervals import Bootstrap, seed_interval, t975
from reasonrl.evaluation.metrics import (
    GradedSample,
    greedy_metrics,
    maj_at_k,
    pass_at_k,
    powers_up_to,
    rerank_at_k,
    sampled_metrics,
)


@given(st.lists(st.booleans(), min_size=1, max_size=10), st.data())
def test_pass_at_k_is_the_mean_over_all_subsets(correct, data):
    k = data.draw(st.integers(1, len(correct)))
    brute = mean(any(subset) for subset in combinations(correct, k))
    assert math.isclose(pass_at_k(len(correct), sum(correct), k), brute, abs_tol=1e-12)


@given(st.integers(1, 200), st.data())
def test_pass_at_k_is_the_quotient_of_binomials(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert math.isclose(pass_at_k(n, c, k), 1 - math.comb(n - c, k) / math.comb(n, k), abs_tol=1e-12)


def test_pass_at_k_worked_out():
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9)
    assert (pass_at_k(9, 0, 9), pass_at_k(9, 1, 9), pass_at_k(9, 9, 1)) == (0, 1, 1)
    with pytest.raises(ValueError, match="needs 3 samples"):
        pass_at_k(2, 1, 3)


graded = st.builds(
    lambda answer, orm: GradedSample(answer, answer == "1", orm),
    st.sampled_from([None, "1", "2", "3"]), st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)  # fmt: skip


def naive_maj(samples: list[GradedSample]) -> bool:
    """Score every answer, most votes first, then the earliest."""
    answers = [sample.extracted for sample in samples]
    given = sorted({a for a in answers if a is not None}, key=lambda a: (-answers.count(a), answers.index(a)))
    return given[:1] == ["1"]


@given(st.lists(graded, min_size=1, max_size=9), st.integers(1, 12))
@settings(max_examples=300)
def test_maj_and_rerank_against_naive_ones(samples, k):
    assert maj_at_k(samples, k) == naive_maj(samples[:k])
    best = sorted(range(len(samples[:k])), key=lambda i: (-samples[i].orm, i))[0]
    assert rerank_at_k(samples, k) == samples[best].correct


R, W, X, N = GradedSample("7", True), GradedSample("8", False), GradedSample("9", False), GradedSample(None, False)


@pytest.mark.parametrize(
    ("samples", "k", "wins"),
    [
        ([R], 1, True),
        ([W, R, R], 3, True),
        ([W, R], 2, False),  # a tie: the first sample's answer
        ([R, W], 2, True),
        ([R, W, W, R], 4, True),
        ([W, X, R, R, X], 5, False),  # X and R have two votes, X came first
        ([W, R, R], 1, False),  # the first k only
        ([N, N, N, R], 4, True),  # no answer, no vote
        ([N, N, W, R], 4, False),
        ([N, N], 2, False),
        ([N], 1, False),
    ],
)
def test_maj_worked_out(samples, k, wins):
    assert maj_at_k(samples, k) is wins


def test_rerank_worked_out():
    a, b, c = GradedSample("1", True, 0.5), GradedSample("2", False, 0.9), GradedSample("3", True, 0.9)
    assert [rerank_at_k([a, b, c], k) for k in (1, 2, 3)] == [True, False, False]  # the first of equals
    assert rerank_at_k([a, c, b], 3) is True


def test_powers_of_two_and_the_number_itself():
    powers = {n: powers_up_to(n) for n in (1, 2, 3, 8, 96)}
    assert powers == {1: [1], 2: [1, 2], 3: [1, 2, 3], 8: [1, 2, 4, 8], 96: [1, 2, 4, 8, 16, 32, 64, 96]}


def test_the_bootstrap_is_seeded_and_close_to_theory():
    values = [1.0] * 60 + [0.0] * 140
    estimate = Bootstrap(200, seed=3).estimate(values)
    assert estimate == Bootstrap(200, seed=3).estimate(values) != Bootstrap(200, seed=4).estimate(values)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 200)  # the normal approximation
    assert (estimate.value, estimate.n) == (0.3, 200)
    assert estimate.low == pytest.approx(0.3 - half, abs=0.01) and estimate.high == pytest.approx(0.3 + half, abs=0.01)
    assert Bootstrap(5).estimate([1.0] * 5)[:3] == (1, pytest.approx(1), pytest.approx(1))
    assert Bootstrap(1).estimate([0.0])[:3] == (0, 0, 0)


def test_the_bootstrap_interval_covers_the_truth():
    random = np.random.default_rng(0)
    bootstrap = Bootstrap(100)
    intervals = [bootstrap.estimate(random.random(100) < 0.4) for _ in range(400)]
    assert 0.91 < mean(interval.low <= 0.4 <= interval.high for interval in intervals) < 0.985


@given(st.lists(st.lists(graded, min_size=3, max_size=3), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_metrics_are_means_of_the_estimators(groups):
    metrics = {(m["name"], m["k"]): m for m in sampled_metrics(groups)}
    assert set(metrics) == {("pass", 1), ("pass", 2), ("pass", 3), ("maj", 2), ("maj", 3), ("rerank", 2), ("rerank", 3)}
    for (name, k), metric in metrics.items():
        one = {
            "maj": lambda group, k=k: naive_maj(group[:k]),
            "rerank": lambda group, k=k: rerank_at_k(group, k),
            "pass": lambda group, k=k: mean(any(s.correct for s in subset) for subset in combinations(group, k)),
        }[name]
        assert metric["value"] == pytest.approx(mean(map(one, groups)))
        assert metric["low"] <= metric["value"] + 1e-6 and metric["value"] <= metric["high"] + 1e-6
        assert metric["n"] == len(groups)


def test_metrics_of_nothing_and_of_unequal_groups():
    assert greedy_metrics([]) == sampled_metrics([]) == []
    assert [(m["name"], m["k"], m["value"]) for m in greedy_metrics([R, W, N, R])] == [("maj", 1, 0.5)]
    unequal = sampled_metrics([[R, R, R], [W, R]])
    assert {m["k"] for m in unequal} == {1, 2}
    assert not any(m["name"] == "rerank" for m in unequal), "without ORM scores there is no rerank"


def test_the_interval_over_seeds_is_students():
    assert seed_interval([0.5]) == (0.5, 0.5, 0.5)
    values = [0.61, 0.64, 0.67]
    half = 4.303 * stdev(values) / math.sqrt(3)
    assert seed_interval(values) == pytest.approx((0.64, 0.64 - half, 0.64 + half))


def test_students_t_against_its_own_integral():
    """97.5% of the density lies below the point, for each number of degrees of freedom, in the table and beyond it."""
    for freedom in (1, 2, 5, 10, 11, 12, 19, 29, 30, 31, 40, 60, 200):
        scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
        at = np.linspace(0, t975(freedom), 200_001)
        density = scale * (1 + at**2 / freedom) ** (-(freedom + 1) / 2)
        assert 0.5 + np.trapezoid(density, at) == pytest.approx(0.975, abs=3e-5), freedom
    assert [t975(n) for n in (11, 30, 120)] == pytest.approx([2.201, 2.042, 1.980], abs=5e-4)
    assert all(t975(n) > t975(n + 1) > 1.96 for n in range(1, 500))
