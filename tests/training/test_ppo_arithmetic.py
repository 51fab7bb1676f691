"""PPO's formulas on tensors: worked out by hand, and against a second, naive implementation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reasonrl.settings import PpoSettings
from reasonrl.training import losses
from reasonrl.training.ppo.rollouts import EvaluatedRollouts, estimate

NUMBERS = st.floats(-3, 3, allow_nan=False, width=32)


def test_gae_by_hand():
    rewards = torch.tensor([[0.0, 0.0, 1.0]])
    values = torch.tensor([[0.5, 0.25, 0.5]])
    advantages, returns = losses.gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=0.5, lam=0.5)
    # δ = (0 + ½·¼ − ½, 0 + ½·½ − ¼, 1 − ½) = (−3/8, 0, ½); A = (−3/8 + ¼·⅛, 0 + ¼·½, ½)
    assert advantages.tolist() == [[-0.34375, 0.125, 0.5]]
    assert returns.tolist() == [[0.15625, 0.375, 1.0]]


def test_gae_with_lambda_one_is_the_return_less_the_value():
    rewards, values = torch.rand(4, 7), torch.rand(4, 7)
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 5])[:, None]
    advantages, returns = losses.gae(rewards, values, mask, gamma=1.0, lam=1.0)
    expected = (rewards * mask).flip(1).cumsum(1).flip(1) * mask
    torch.testing.assert_close(returns, expected)
    torch.testing.assert_close(advantages, expected - values * mask)


def naive_gae(rewards, values, gamma, lam):
    """A_t = Σ_l (γλ)^l δ_(t+l), straight from the definition, of one completion."""
    deltas = [
        reward + gamma * (values[t + 1] if t + 1 < len(values) else 0.0) - values[t] for t, reward in enumerate(rewards)
    ]
    return [sum((gamma * lam) ** (i - t) * deltas[i] for i in range(t, len(deltas))) for t in range(len(deltas))]


@settings(max_examples=50, deadline=None)
@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_naive_sum_whatever_stands_after_the_last_token(data, lengths, gamma, lam):
    size = (len(lengths), max(lengths))
    numbers = data.draw(st.lists(NUMBERS, min_size=2 * size[0] * size[1], max_size=2 * size[0] * size[1]))
    rewards, values = torch.tensor(numbers).view(2, *size)
    mask = torch.arange(size[1]) < torch.tensor(lengths)[:, None]
    advantages, returns = losses.gae(rewards, values, mask, gamma, lam)
    for row, length in enumerate(lengths):
        expected = naive_gae(rewards[row, :length].tolist(), values[row, :length].tolist(), gamma, lam)
        torch.testing.assert_close(advantages[row, :length], torch.tensor(expected), atol=1e-4, rtol=1e-4)
    assert not advantages[~mask].any() and not returns[~mask].any()


def test_kl_estimators_by_hand():
    policy, reference = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.5]).log()
    assert losses.k1(policy, reference).tolist() == pytest.approx([math.log(2), -math.log(2)])
    assert losses.k3(policy, reference).tolist() == pytest.approx([0.5 - 1 + math.log(2), 2 - 1 - math.log(2)])


def test_k1_and_k3_are_unbiased_and_k3_never_negative():
    p, q = torch.tensor([0.7, 0.2, 0.1], dtype=torch.double), torch.tensor([0.2, 0.5, 0.3], dtype=torch.double)
    kl = float((p * (p / q).log()).sum())
    for estimator in (losses.k1, losses.k3):
        assert float((p * estimator(p.log(), q.log())).sum()) == pytest.approx(kl)
    assert (losses.k3(torch.randn(1000), torch.randn(1000)) >= 0).all()
    assert float(losses.k3(torch.tensor(-1.0), torch.tensor(-1.0))) == 0


def test_group_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    third = 1 / 3
    assert losses.rloo(rewards)[0].tolist() == pytest.approx([2 * third, -2 * third, -2 * third, 2 * third])
    assert losses.rloo(rewards)[2].tolist() == pytest.approx([-third, -third, -third, 1.0])
    unit = 0.5 / third**0.5  # half, in standard deviations
    assert losses.grpo(rewards)[0].tolist() == pytest.approx([unit, -unit, -unit, unit], rel=1e-5)
    for advantages in (losses.rloo(rewards), losses.grpo(rewards)):
        assert advantages[1].tolist() == [0.0] * 4  # a question that is always right teaches nothing
        assert advantages.sum(1).tolist() == pytest.approx([0.0] * 3, abs=1e-6)


def test_rloo_is_the_naive_leave_one_out():
    rewards = torch.randn(3, 5)
    for row in range(3):
        for k in range(5):
            others = [float(rewards[row, i]) for i in range(5) if i != k]
            expected = float(rewards[row, k]) - sum(others) / 4
            assert float(losses.rloo(rewards)[row, k]) == pytest.approx(expected, abs=1e-5)


def test_whitening_is_over_true_tokens_only():
    values = torch.tensor([[1.0, 3.0, 1e6], [5.0, -1e6, 1e6]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    white = losses.whiten(values, mask)
    assert white[mask].tolist() == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)], abs=1e-6)
    assert white[~mask].tolist() == [0.0, 0.0, 0.0]


def test_whitening_is_over_all_processes():
    values, mask = torch.randn(6, 4), torch.rand(6, 4) < 0.7
    together = losses.whiten(values, mask)
    sums = []
    for rows in (slice(0, 2), slice(2, 6)):
        losses.whiten(values[rows], mask[rows], lambda of_rank: sums.append(of_rank) or of_rank)
    apart = [
        losses.whiten(values[rows], mask[rows], lambda _: sums[0] + sums[1]) for rows in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(torch.cat(apart), together)


def test_policy_loss_by_hand():
    old = torch.zeros(5)
    logprobs = torch.tensor([1.0, 1.5, 1.5, 0.5, 0.5]).log()
    advantages = torch.tensor([2.0, 1.0, -1.0, 1.0, -1.0])
    loss, clipped = losses.policy_loss(logprobs, old, advantages, 0.2)
    assert loss.tolist() == pytest.approx([-2.0, -1.2, 1.5, -0.5, 0.8])
    assert clipped.tolist() == [False, True, False, False, True]


def test_where_the_policy_loss_is_clipped_nothing_is_learned():
    logprobs = torch.tensor([0.4, -0.4, 0.1], requires_grad=True)
    losses.policy_loss(logprobs, torch.zeros(3), torch.tensor([1.0, -1.0, 1.0]), 0.2).loss.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([0.0, 0.0, -math.exp(0.1)])


def test_value_loss_by_hand():
    values, old, returns = torch.tensor([0.5, 0.5, 0.0]), torch.zeros(3), torch.tensor([1.0, 0.2, 1.0])
    loss, clipped = losses.value_loss(values, old, returns, 0.2)
    assert loss.tolist() == pytest.approx([0.5 * 0.8**2, 0.5 * 0.3**2, 0.5])
    assert clipped.tolist() == [True, False, False]


def naive_losses(logprob, old, advantage, value, old_value, target, clip):
    ratio = math.exp(logprob - old)
    bounded = max(1 - clip, min(1 + clip, ratio))
    near = max(old_value - clip, min(old_value + clip, value))
    return -min(ratio * advantage, bounded * advantage), max((value - target) ** 2, (near - target) ** 2) / 2


@settings(max_examples=100, deadline=None)
@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.floats(0.05, 0.5))
def test_losses_are_the_naive_ones(logprob, old, advantage, value, old_value, target, clip):
    one = lambda number: torch.tensor([number], dtype=torch.double)
    policy, critic = naive_losses(logprob, old, advantage, value, old_value, target, clip)
    assert float(losses.policy_loss(one(logprob), one(old), one(advantage), clip).loss) == pytest.approx(policy)
    assert float(losses.value_loss(one(value), one(old_value), one(target), clip).loss) == pytest.approx(critic)


def test_explained_variance_by_hand():
    returns = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert losses.explained_variance(returns, returns) == 1
    assert losses.explained_variance(torch.full((4,), 0.5), returns) == 0
    assert losses.explained_variance(1 - returns, returns) == -3
    assert math.isnan(losses.explained_variance(returns, torch.ones(4)))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1 << 26, 33])  # of 11 words: all 20 positions at once, and 3 at a time
def test_token_scores_are_those_of_the_softmax_at_the_temperature(temperature, chunk, monkeypatch):
    monkeypatch.setattr(losses, "LOGITS", chunk)
    hidden, head = torch.randn(20, 8, requires_grad=True), nn.Linear(8, 11, bias=False)
    targets = torch.randint(0, 11, (20,))
    scores = losses.evaluate_tokens(hidden, head, targets, temperature, entropies=True)
    full = torch.distributions.Categorical(logits=head(hidden) / temperature)
    torch.testing.assert_close(scores.logprobs, full.log_prob(targets))
    torch.testing.assert_close(scores.entropies, full.entropy())
    (gradient,) = torch.autograd.grad(scores.logprobs.sum() + scores.entropies.sum(), hidden, retain_graph=True)
    (expected,) = torch.autograd.grad(full.log_prob(targets).sum() + full.entropy().sum(), hidden)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def hand_made(rewards, logprobs, reference):
    lengths = [len(row) for row in rewards]
    padded = lambda rows: torch.tensor([[*row, *[9.0] * (max(lengths) - len(row))] for row in rows])
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    rewards = padded(rewards) * mask
    return EvaluatedRollouts(
        records=[], completions=[], examples=[], mask=mask, rollout_logprobs=None, correct=[], parseable=[], scores=[],
        rewards=rewards, logprobs=padded(logprobs), entropies=torch.zeros_like(rewards),
        values=torch.zeros_like(rewards), reference_logprobs=padded(reference),
    )  # fmt: skip


def test_kl_stands_in_the_reward_a_token_with_gae_and_a_sample_with_rloo():
    rewards, logprobs, reference = [[0.0, 1.0], [0.0]], [[-1.0, -2.0], [-3.0]], [[-1.5, -1.0], [-3.0]]
    rollouts = hand_made(rewards, logprobs, reference)
    with_gae = estimate(rollouts, PpoSettings(k=2, kl=0.5, lam=1.0))
    # r = (0 − ½·½, 1 + ½·1), 0
    assert with_gae.returns.tolist() == [[1.25, 1.5], [0.0, 0.0]]
    with_rloo = estimate(rollouts, PpoSettings(k=2, kl=0.5, advantage="rloo"))
    assert with_rloo.advantages.tolist() == [[1.25, 1.25], [-1.25, 0.0]]
    with_grpo = estimate(rollouts, PpoSettings(k=2, kl=0.5, advantage="grpo"))
    half = 0.5 / 0.5**0.5
    assert with_grpo.advantages.flatten().tolist() == pytest.approx([half, half, -half, 0.0], abs=1e-5)
