"""Judging inside a process that trains: what is asked of a reward at a time, and what a failure says."""

from contextlib import closing
from itertools import islice

import pytest

from reasonrl.rewards.registry import RewardResources
from reasonrl.rewards.scorer import RewardScorer
from reasonrl.tasks import mini

PROBLEMS = list(islice(mini.problems("train"), 6))


def test_a_completion_that_the_verifier_cannot_read_whole_earns_nothing_and_ends_nothing(capsys):
    judge = RewardScorer(choices(["orm"], []), RewardResources(device="cpu"), False)
    judge.rewards[0].verifier.context = 90
    said = ["#### 1", "word " * 100, "#### 2"]
    judged = judge([problem | {"completion": text} for problem, text in zip(PROBLEMS, said, strict=False)])
    assert [one.reward > 0 for one in judged] == [True, False, True]
    assert judged[1].rewards == {"orm": 0}
    assert capsys.readouterr().err.count("context of 90") == 1


def test_a_verifier_that_gives_nan_is_told_and_not_taken_for_one_that_says_wrong():
    judge = RewardScorer(choices(["orm"], []), RewardResources(device="cpu"), False)
    weights = next(judge.rewards[0].verifier.model.parameters())
    kept = weights.detach().clone()
    try:
        weights.data.fill_(float("nan"))
        with pytest.raises(Exception, match=r"mini/train/0: --reward orm: the verifier gave nan"):
            judge([PROBLEMS[0] | {"completion": "#### 1"}])
    finally:
        weights.data.copy_(kept)


def test_a_reward_is_asked_for_no_more_records_than_it_takes(tmp_path):
    (tmp_path / "own.py").write_text("def many(records):\n    return [len(records)] * len(records)\n")
    judge = RewardScorer(choices([f"{tmp_path}/own.py:many"], []), RewardResources(), False)
    with closing(judge):
        judge.rewards[0].capacity = 3
        assert [one.reward for one in judge([PROBLEMS[0] | {"completion": "x"}] * 7)] == [3] * 6 + [1]


def test_a_reward_that_fails_is_told_with_the_sample(tmp_path):
    (tmp_path / "own.py").write_text("def broken(records):\n    raise ValueError('no')\n")
    judge = RewardScorer(choices([f"{tmp_path}/own.py:broken"], []), RewardResources(), False)
    with closing(judge), pytest.raises(Exception, match=r"mini/train/0.*own.py:broken"):
        judge([PROBLEMS[0] | {"completion": "x"}])
