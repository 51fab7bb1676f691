"""Rollouts of completions that a test writes, or that the policy draws."""

from reasonrl.prompts import PromptForm
from reasonrl.rewards.registry import RewardResources, reward_specs
from reasonrl.rewards.scorer import RewardScorer
from reasonrl.sampling.hf.engine import HFEngine
from reasonrl.sampling.types import Completion
from reasonrl.settings import PpoSettings
from reasonrl.training.ppo.rollouts import Collector

FORM = PromptForm()


class Canned:
    """An engine that gives the completions a test needs to look at."""

    def __init__(self, *completions):
        self.completions = completions

    def sample(self, requests, sampling):
        yield from [list(self.completions) for _ in requests]


def completion(policy, text, finish="eos"):
    ids = policy.encode_completion(text) + [policy.eos_id] * (finish == "eos")
    return Completion(ids, text, None, finish)


def collector(policy, *completions, rewards=("exact",), weights=(), k=4, **more):
    scorer = RewardScorer(reward_specs(rewards, weights), RewardResources(device="cpu"))
    engine = Canned(*completions) if completions else HFEngine(policy)
    return Collector(policy, engine, scorer, FORM, PpoSettings(k=len(completions) or k, **{"max_tokens": 64} | more))


def collect(collector, problems, epochs=None):
    """Rollouts of problems, drawn, graded and scored."""
    drawn = collector.draw(problems, epochs or [0] * len(problems))
    return collector.score(collector.grade(drawn))
