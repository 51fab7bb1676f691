"""Scoring inside a process that trains: what a reward is given at a time, and what a failure says."""

from contextlib import closing
from itertools import islice

import pytest

from reasonrl.rewards.registry import RewardResources, reward_specs
from reasonrl.rewards.scorer import RewardScorer
from reasonrl.tasks import mini

PROBLEMS = list(islice(mini.problems("train"), 6))


def scorer_of(*rewards, **resources):
    return RewardScorer(reward_specs(rewards, []), RewardResources(**resources))


def scores(scorer, records):
    scorer.grade_all(records)
    return scorer(records)


def test_a_completion_that_the_reward_model_cannot_read_whole_earns_nothing_and_ends_nothing(capsys):
    scorer = scorer_of("orm", device="cpu")
    scorer.rewards[0].reward_model.context = 90
    texts = ["#### 1", "word " * 100, "#### 2"]
    scored = scores(scorer, [problem | {"completion": text} for problem, text in zip(PROBLEMS, texts, strict=False)])
    assert [score.reward > 0 for score in scored] == [True, False, True]
    assert {name: result.reward for name, result in scored[1].results.items()} == {"orm": 0}
    assert capsys.readouterr().err.count("context of 90") == 1


def test_a_reward_model_that_gives_nan_is_an_error_and_not_taken_for_one_that_says_wrong():
    scorer = scorer_of("orm", device="cpu")
    weights = next(scorer.rewards[0].reward_model.model.parameters())
    kept = weights.detach().clone()
    try:
        weights.data.fill_(float("nan"))
        with pytest.raises(Exception, match=r"mini/train/0: --reward orm: the verifier gave nan"):
            scores(scorer, [PROBLEMS[0] | {"completion": "#### 1"}])
    finally:
        weights.data.copy_(kept)


def test_a_reward_is_given_no_more_records_than_it_takes(tmp_path):
    (tmp_path / "own.py").write_text("def many(records):\n    return [len(records)] * len(records)\n")
    scorer = scorer_of(f"{tmp_path}/own.py:many")
    with closing(scorer):
        scorer.rewards[0].capacity = 3
        scored = scores(scorer, [PROBLEMS[0] | {"completion": "x"}] * 7)
        assert [score.reward for score in scored] == [3] * 6 + [1]


def test_a_reward_that_fails_is_reported_with_the_sample(tmp_path):
    (tmp_path / "own.py").write_text("def broken(records):\n    raise ValueError('no')\n")
    scorer = scorer_of(f"{tmp_path}/own.py:broken")
    with closing(scorer), pytest.raises(Exception, match=r"mini/train/0.*own.py:broken"):
        scores(scorer, [PROBLEMS[0] | {"completion": "x"}])
