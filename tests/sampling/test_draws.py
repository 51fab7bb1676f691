"""Random numbers and single draws: right distribution, and nothing but (seed, id, k, position) matters."""

import numpy as np
import pytest
import torch

from reasonrl.sampling.hf import draws
from reasonrl.sampling.hf.engine import draw
from reasonrl.sampling.types import Sampling


def test_uniforms_depend_on_their_coordinates_only():
    whole = draws.uniforms(draws.row_keys(7, ["a", "b"], range(6)), 0, 40)
    part = draws.uniforms(draws.row_keys(7, ["b"], range(2, 5)), 10, 8)
    assert np.array_equal(part, whole[6 + 2 : 6 + 5, 10:18])
    assert not np.array_equal(whole, draws.uniforms(draws.row_keys(8, ["a", "b"], range(6)), 0, 40))


def test_uniforms_are_uniform_and_uncorrelated():
    u = draws.uniforms(draws.row_keys(0, [f"mini/train/{i}" for i in range(100)], range(32)), 0, 64).astype(np.float64)
    assert u.min() >= 0 and u.max() < 1
    counts, _ = np.histogram(u, bins=64, range=(0, 1))
    expected = u.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 120  # χ² with 63 degrees of freedom: 1 in 100,000
    for one, other in ((u[:, :-1], u[:, 1:]), (u[:-1], u[1:])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.01


LOGITS = torch.tensor([[0.0, 1.0, -1.0, 2.0, -torch.inf, 0.5]])


def frequencies(sampling: Sampling, n: int = 200_000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    uniform = (torch.arange(n) + 0.5) / n  # a grid instead of noise: frequencies are exact to 1/n
    token, logprob = draw(LOGITS.expand(n, -1), uniform, sampling)
    return torch.bincount(token, minlength=6) / n, token, logprob


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draw_follows_the_softmax(temperature):
    shares, token, logprob = frequencies(Sampling(temperature=temperature))
    assert torch.allclose(shares, (LOGITS[0] / temperature).softmax(0), atol=1e-4)
    assert torch.allclose(
        logprob, LOGITS[0].log_softmax(0)[token], atol=1e-5
    )  # at temperature 1, whatever was drawn at


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    # Probabilities in order: 0.579 (token 3), 0.213 (1), 0.129 (5), 0.078 (0), 0.029 (2), 0 (4).
    p = LOGITS[0].softmax(0)
    shares, *_ = frequencies(Sampling(top_p=0.7))
    assert shares[[0, 2, 4, 5]].sum() == 0
    assert torch.allclose(shares[[3, 1]], p[[3, 1]] / p[[3, 1]].sum(), atol=1e-4)
    shares, *_ = frequencies(Sampling(top_p=1e-6))
    assert shares[3] == 1


def test_greedy_takes_the_mode_and_reports_its_logprob():
    token, logprob = draw(LOGITS, torch.tensor([0.99]), Sampling(temperature=0))
    assert token.item() == 3
    assert logprob.item() == pytest.approx(LOGITS[0].log_softmax(0)[3].item(), abs=1e-6)


def test_a_token_without_mass_is_never_drawn():
    logits = torch.full((1, 50_000), -torch.inf)
    logits[0, [10, 49_000]] = 0.0
    edges = torch.tensor([0.0, 0.5, 1 - 2**-24, 0.49999997])
    token, _ = draw(logits.expand(4, -1), edges, Sampling())
    assert token.tolist() == [10, 49_000, 49_000, 10]
