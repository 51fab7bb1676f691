"""A run of PPO: which questions an update takes, what is refused before it starts, and in which precision it scores."""

from itertools import islice

import pytest
import torch
from accelerate.state import AcceleratorState
from rollouts import FORM, Canned, collect, collector, completion

from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.io.provenance import Run
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.models.language_model import load_language_model
from reasonrl.models.reward_model import new_reward_model
from reasonrl.rewards.registry import RewardResources, reward_specs
from reasonrl.rewards.reward_model import OutcomeReward
from reasonrl.rewards.scorer import RewardScorer
from reasonrl.settings import PpoSettings
from reasonrl.tasks import mini
from reasonrl.training.ppo.rollouts import Collector
from reasonrl.training.ppo.trainer import build, question_order

PROBLEMS = list(islice(mini.problems("train"), 6))


@pytest.fixture
def policy():
    return load_language_model("tiny", device="cpu", dtype="fp32")


def test_every_question_comes_once_an_epoch_and_batches_are_whole():
    settings = PpoSettings(samples=96, batch_size=16, k=2, seed=3)
    updates = question_order(10, settings)
    assert [len(questions) for questions in updates] == [8] * 6
    pairs = [pair for questions in updates for pair in questions]
    assert len(set(pairs)) == 48
    for epoch in range(4):
        assert sorted(index for index, times in pairs if times == epoch) == list(range(10))
    assert (
        question_order(10, settings)
        == updates
        != question_order(10, PpoSettings(samples=96, batch_size=16, k=2, seed=4))
    )


def test_settings_that_do_not_fit_together_are_refused():
    for wrong, message in (
        (PpoSettings(batch_size=10, k=4), "no multiple of --k 4"),
        (PpoSettings(batch_size=8, k=4, minibatches=16), "16 minibatches"),
        (PpoSettings(k=1, advantage="grpo"), "--k 2 or more"),
    ):
        with pytest.raises(UsageError, match=message):
            wrong.check_world(1)


def test_completions_too_long_for_the_verifier_are_foreseen(policy):
    checked = collector(policy, completion(policy, "#### 1"), rewards=("orm",))
    verifier = new_reward_model("tiny", device="cpu")  # of the policy's own tokenizer
    checked.scorer.rewards = [OutcomeReward(verifier, FORM)]
    longest = max(len(policy.encode_prompt(FORM.render(problem["question"]))) for problem in PROBLEMS)
    verifier.context = longest + checked.sampling.max_tokens
    checked.check(PROBLEMS)
    verifier.context -= 1
    with pytest.raises(ReasonRLError, match=r"mini/train/.*smaller --max-tokens"):
        checked.check(PROBLEMS)


@pytest.fixture
def fresh_accelerate():
    """accelerate remembers the precision of a process's first run, which a test of another one is not."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Keeping(Collector):
    """A collector that keeps what it has scored."""

    def score(self, graded):
        self.scored = super().score(graded)
        return self.scored


def test_rewards_are_calculated_in_their_own_precision_whatever_the_policy_is(policy, tmp_path, fresh_accelerate):
    settings = PpoSettings(
        output=str(tmp_path / "out"), device="cpu", dtype="bf16", samples=4, batch_size=4, k=2, epochs=1, minibatches=1,
        max_tokens=64,
    )  # fmt: skip
    scorer = RewardScorer(reward_specs(["orm"], []), RewardResources(device="cpu"))
    trainer = build(policy, PROBLEMS[:2], scorer, FORM, settings, Checkpoint(Run(settings)), {})
    completions = completion(policy, "#### 1"), completion(policy, "Two.\n#### 2")
    trainer.collector = Keeping(policy, Canned(*completions), scorer, FORM, settings)
    (questions,) = trainer.questions
    problems = [PROBLEMS[index] for index, _ in questions]
    plain = collect(trainer.collector, problems).returns_of_samples
    with trainer.loop.accelerator.autocast():
        assert not torch.equal(collect(trainer.collector, problems).returns_of_samples, plain)  # it would show
    trainer.update(questions)
    assert torch.equal(trainer.collector.scored.returns_of_samples, plain)
