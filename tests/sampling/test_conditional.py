"""Sampling after labels, turn by turn: what is drawn, where it ends, and what the model knows."""

import math
from collections import Counter

import pytest
import torch
from spelling import spelling_policy

from reasonrl.errors import UsageError
from reasonrl.grading.steps import step_starts
from reasonrl.models import checkpoint, labels
from reasonrl.models.labels import TEXT, TOKENS, Condition, Steps
from reasonrl.models.language_model import load_language_model
from reasonrl.prompts import PromptForm
from reasonrl.sampling.conditional import Conditional
from reasonrl.sampling.hf.engine import HFEngine
from reasonrl.sampling.types import Request, Sampling
from reasonrl.tasks import mini
from reasonrl.training.batching import collate
from reasonrl.training.losses import TokenLogprobs
from reasonrl.training.rcrl import examples

GOOD, BAD = (Condition(name, text, TEXT) for name, text in zip(TEXT.names, (TEXT.good, TEXT.bad), strict=True))


@pytest.fixture(scope="module")
def policy():
    return load_language_model("tiny", device="cpu", dtype="fp32")


def make_requests(policy, count):
    form = PromptForm()
    return [Request(problem["id"], policy.encode_prompt(form.render(problem["question"])))
            for _, problem in zip(range(count), mini.problems("test"), strict=False)]  # fmt: skip


def test_drawing_and_learning_read_the_same_text(policy):
    """The log-probabilities of what is drawn after labels are those that training would give it."""
    requests = make_requests(policy, 6)
    engine = Conditional(HFEngine(policy), policy, BAD)
    label = policy.encode_completion(TEXT.bad)
    logprobs = TokenLogprobs(policy.model)
    for request, drawn in zip(requests, engine.sample(requests, Sampling(3, max_tokens=60)), strict=True):
        for one in drawn:
            starts = step_starts(policy.pieces(one.ids))
            starts = starts[:-1] if starts[-1] == len(one.ids) else starts
            steps = Steps(one.ids, starts, len(starts))
            solution = examples.LabelledSolution("q", request.prompt_ids, steps, [False] * len(starts))
            batch = collate([examples.to_example(solution, [True] * len(starts), ([], label))])
            with torch.no_grad():
                in_training = logprobs(batch.input_ids, batch.loss_mask, batch.targets)
            assert batch.targets.tolist() == one.ids
            assert torch.allclose(in_training, torch.tensor(one.logprobs), atol=1e-4)
            assert len(one.ids) <= 60 and "[" not in one.text


def test_draws_do_not_depend_on_company(policy):
    requests, sampling = make_requests(policy, 5), Sampling(4, max_tokens=50)
    make = lambda batch_tokens: Conditional(HFEngine(policy, batch_tokens), policy, GOOD)
    together = list(make(None).sample(requests, sampling))
    alone = [samples for request in requests for samples in make(300).sample([request], sampling)]
    assert alone == together or (
        # other batches differ only where rounding tips a draw
        sum(a.ids == b.ids for one, other in zip(alone, together, strict=True)
            for a, b in zip(one, other, strict=True)) >= 19
    )  # fmt: skip
    assert together != list(Conditional(HFEngine(policy), policy, BAD).sample(requests, sampling))


def test_a_policy_that_likes_labels_draws_none():
    """Two labels in a vocabulary of six: a third of a random policy's draws. Ruled out, the rest keeps its odds."""
    policy = spelling_policy(extra=("[GOOD]", "[BAD]"), seed=10)
    condition = Condition("[GOOD]", "[GOOD]", TOKENS)
    requests = [Request("q", policy.encode_completion("ab"))]
    label = policy.encode_completion("[GOOD]")
    assert len(label) == 1
    (drawn,) = Conditional(HFEngine(policy, 1 << 16), policy, condition).sample(requests, Sampling(2000, max_tokens=12))
    assert not any({4, 5} & set(one.ids) for one in drawn)
    assert all(len(one.logprobs) == len(one.ids) for one in drawn)
    with torch.no_grad():
        odds = policy.model(torch.tensor([requests[0].prompt_ids + label])).logits[0, -1].softmax(-1)[:4]
    odds = (odds / odds.sum()).tolist()
    first = Counter(one.ids[0] for one in drawn)
    for token, p in enumerate(odds):
        assert abs(first[token] / 2000 - p) < 4 * math.sqrt(p * (1 - p) / 2000)
    (greedy,) = Conditional(HFEngine(policy), policy, condition).sample(requests, Sampling(temperature=0, max_tokens=6))
    assert not {4, 5} & set(greedy[0].ids)


def test_a_stop_string_is_found_across_steps():
    policy = spelling_policy(seed=1)
    condition = Condition("[GOOD]", "ab", labels.Labels("ab", "ba"))
    engine = Conditional(HFEngine(policy), policy, condition)
    engine.drawn_labels = []  # letters are labels here, and may be drawn
    (drawn,) = engine.sample([Request("q", [2])], Sampling(400, max_tokens=12, stop=("a\nb",)))
    ends = Counter(one.finish for one in drawn)
    assert ends["stop"] > 5 and ends["eos"] > 5
    for one in drawn:
        assert "a\nb" not in one.text
        assert ("a\nb" in policy.decode([one.ids])[0]) == (one.finish == "stop")
        assert one.finish != "stop" or one.ids[-3:] == [2, 1, 3]


def test_a_stop_string_within_a_step_keeps_the_log_probabilities():
    policy = spelling_policy(seed=1)
    condition = Condition("[GOOD]", "ab", labels.Labels("ab", "ba"))
    engine = Conditional(HFEngine(policy), policy, condition)
    engine.drawn_labels = []
    (drawn,) = engine.sample([Request("q", [2])], Sampling(400, max_tokens=12, stop=("ab",)))
    ended = [one for one in drawn if one.finish == "stop"]
    assert len(ended) > 5
    for one in ended:
        assert one.logprobs and len(one.logprobs) == len(one.ids) and policy.decode([one.ids])[0].endswith("ab")


def test_conditions_are_those_that_the_model_knows(tmp_path):
    assert labels.condition(None, str(tmp_path), "m") is None
    with pytest.raises(UsageError, match="was not trained on labels"):
        labels.condition("[GOOD]", str(tmp_path), "m")
    (tmp_path / checkpoint.MARKER).write_text('{"labels": {"good": "[GOOD]\\n", "bad": "[BAD]\\n"}}')
    assert labels.condition(None, str(tmp_path), "m") == GOOD
    assert labels.condition("[BAD]", str(tmp_path), "m") == BAD
    with pytest.raises(UsageError, match=r"m knows \[GOOD\] and \[BAD\]"):
        labels.condition("best", str(tmp_path), "m")
