"""Return-conditioned RL: where labels stand, what steps are worth and what that costs, what is learned and drawn."""

import math
from collections import Counter
from functools import lru_cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prefill import counted_prefill
from spelling import spelling_policy
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasonrl.errors import ReasonRLError, RecordError
from reasonrl.grading.steps import step_starts
from reasonrl.models import labels
from reasonrl.models.labels import TEXT, TOKENS, Condition, Steps, interleave
from reasonrl.models.language_model import load_language_model
from reasonrl.prompts import PromptForm
from reasonrl.rewards.registry import RewardResources, reward_specs
from reasonrl.rewards.scorer import RewardScorer
from reasonrl.sampling.hf.engine import HFEngine
from reasonrl.sampling.types import Request, Sampling
from reasonrl.tasks import mini
from reasonrl.training.batching import collate
from reasonrl.training.rcrl import examples
from reasonrl.training.rcrl.labelling import COST, Labeller, add_costs

GOOD, BAD = (Condition(name, text, TEXT) for name, text in zip(TEXT.names, (TEXT.good, TEXT.bad), strict=True))


@pytest.fixture(scope="module")
def policy():
    return load_language_model("tiny", device="cpu", dtype="fp32")


# Where labels stand

PIECES = st.lists(st.sampled_from(["a", "b c", "\n", "a\n", "\n\n", " ", "a\nb", ""]), max_size=12)


@given(PIECES)
def test_labels_can_be_taken_out_again(pieces):
    ids, starts = list(range(len(pieces))), step_starts(pieces)
    mixed, segments = interleave(ids, starts, [[-7, -8]] * len(starts))
    assert [token for token, segment in zip(mixed, segments, strict=True) if segment >= 0] == ids
    assert mixed.count(-7) == len(starts) and len(mixed) == len(segments)


# What is learned


def solution(question, good, text=None, ids=None):
    count = len(good)
    return examples.LabelledSolution(
        question, [5], Steps(ids or [1, 2] * count, list(range(0, 2 * count, 2)), count), good
    )


def loss_ids(example):
    return [token for token, in_loss in zip(example.completion_ids, example.mask, strict=True) if in_loss]


def test_steps_and_eos_are_learned_and_labels_are_not(policy):
    record = {"id": "x", "question": "How many?", "completion": "A 1\nB 2\n", "labels": ["[GOOD]", "[BAD]"]}
    labelled = examples.to_solution(record, labels.StepEncoder(policy), PromptForm(), TEXT, None)
    label_ids = policy.encode_completion(TEXT.good), policy.encode_completion(TEXT.bad)
    example = examples.to_example(labelled, [True, True], label_ids)
    assert policy.decode([example.completion_ids]) == ["[GOOD]\nA 1\n[BAD]\nB 2\n[BAD]\n"]
    assert loss_ids(example) == [*policy.encode_completion("A 1\nB 2\n"), policy.eos_id]
    second = examples.to_example(labelled, [False, True], label_ids)
    assert second.completion_ids == example.completion_ids
    assert loss_ids(second) == [*policy.encode_completion("B 2\n"), policy.eos_id]
    assert second.loss_tokens == len(loss_ids(second))
    batch = collate([example, second])
    assert len(batch.targets) == example.loss_tokens + second.loss_tokens == int(batch.loss_mask.sum())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["[GOOD]"]}, "want 2 labels"),
        ({"labels": ["[GOOD]", "[FINE]"]}, "each [GOOD] or [BAD]"),
        ({"labels": None}, "step_values.mc"),
        ({"labels": None, "step_values": {"mc": [1]}}, "want 2 labels"),
        ({"completion": None}, "completion"),
    ],
)
def test_labels_that_do_not_fit_are_refused(policy, change, message):
    record = {"id": "x", "question": "?", "completion": "A\nB", "labels": ["[GOOD]", "[BAD]"]} | change
    with pytest.raises(RecordError, match=message.replace("[", r"\[")):
        examples.to_solution(record, labels.StepEncoder(policy), PromptForm(), TEXT, None)


def test_a_threshold_makes_labels_of_values_and_none_takes_them_as_they_are(policy):
    record = {"id": "x", "question": "?", "completion": "A\nB", "labels": ["[BAD]", "[BAD]"],
              "step_values": {"mc": [0.5, 0.25]}}  # fmt: skip
    make = lambda threshold, **more: (
        examples.to_solution(record | more, labels.StepEncoder(policy), PromptForm(), TEXT, threshold).good
    )
    assert make(None) == [False, False] and make(0.25) == [True, True] and make(0.3) == [True, False]
    assert make(None, labels=None) == [True, False]


def test_what_follows_the_last_step_that_is_learned_is_left_out(policy):
    record = {"id": "x", "question": "?", "finish": "eos", "completion": "A\nB\nC", "step_values": {"mc": [0.5, 0, 0]}}
    wrong = examples.to_solution(record, labels.StepEncoder(policy), PromptForm(), TEXT, 0.5)
    example = examples.to_example(wrong, [False, True, False], ([], policy.encode_completion(TEXT.bad)))
    assert policy.decode([example.completion_ids]) == ["A\n[BAD]\nB\n"]
    assert policy.decode([loss_ids(example)]) == ["B\n"]


STEPS = st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=2, max_size=30)


@given(STEPS, st.integers(0, 3))
def test_labels_and_outcomes_are_balanced_and_the_seed_decides(marks, seed):
    solutions = [solution(f"q{i}", good) for i, good in enumerate(marks)]
    if len({one.right for one in solutions}) < 2:
        with pytest.raises(ReasonRLError, match="no label to tell apart"):
            examples.balance(solutions, seed)
        return
    chosen, counts = examples.balance(solutions, seed)
    assert counts["kept"] == 2 * min(counts["right"], counts["wrong"])
    learned = Counter(
        good for one, steps in chosen for good, is_learned in zip(one.good, steps, strict=True) if is_learned
    )
    assert learned[True] == learned[False] == counts["learnt_steps"] // 2
    assert learned[True] == min(counts["good_steps"], counts["bad_steps"])
    assert examples.balance(solutions, seed)[0] == chosen
    assert examples.balance(solutions + solutions, seed)[1]["distinct"] == len(solutions)


# What steps are worth

OWN = """
def own(records):
    return [(one["completion"].count("a") % 2 == 0) for one in records]
"""


def test_monte_carlo_values_agree_with_exact_ones(tmp_path):
    """A policy of two letters and at most six tokens: everything that it can write is enumerated."""
    policy, rollouts, max_tokens = spelling_policy(), 1500, 6
    (tmp_path / "own.py").write_text(OWN)
    scorer = RewardScorer(reward_specs([f"{tmp_path}/own.py:own"], []), RewardResources())
    labeller = Labeller(
        policy,
        HFEngine(policy, 1 << 18),
        scorer,
        PromptForm("bare", "{question}", ()),
        Sampling(60, max_tokens=max_tokens),
        rollouts,
    )
    questions = ["ab", "b"]
    problems = [{"id": question, "question": question, "answer": "0"} for question in questions]
    seen = 0
    for question, records in zip(questions, labeller(problems), strict=True):
        prompt = policy.encode_prompt(question)

        @lru_cache(None)
        def value(prefix, prompt=tuple(prompt)):
            if len(prefix) == max_tokens:
                return 0.0  # ran out of tokens
            with torch.no_grad():
                odds = policy.model(torch.tensor([[*prompt, *prefix]])).logits[0, -1].softmax(-1).tolist()
            ended = odds[0] * (policy.decode([list(prefix)])[0].count("a") % 2 == 0)
            return ended + sum(p * value((*prefix, token)) for token, p in enumerate(odds) if token)

        for record in records:
            ids, values = record["completion_ids"], record["step_values"]["mc"]
            ends = [i + 1 for i in range(len(ids)) if ids[i] == 1 and i and ids[i - 1] != 1]  # after lines' newlines
            for end, estimate in zip(ends, values[:-1], strict=False):
                exact = value(tuple(ids[:end]))
                assert abs(estimate - exact) <= 4 * math.sqrt(exact * (1 - exact) / rollouts) + 1e-9
                assert abs(exact - 0.5) < 0.04 or (estimate >= 0.5) == (exact >= 0.5)
                seen += 1
            if values:
                assert values[-1] == (record["finish"] != "length") * record["reward"]
        assert records[0]["start_value"]["mc"] == sum(
            one["reward"] * (one["finish"] != "length") for one in records
        ) / len(records)
        if question == "ab":  # draws do not depend on who else is labelled
            alone = next(iter(labeller(problems[:1])))
            assert [one["step_values"] for one in alone] == [one["step_values"] for one in records]
    assert seen >= 10


def formula(questions, rollouts, newlines):
    """docs/rcrl.md: the cost of labelling, from the token ids of (prompt, solutions) pairs. newlines: tokens that end a
    line."""
    counts = Counter()
    for prompt, solutions in questions:
        ends = [
            [tuple(ids[: i + 1]) for i, token in enumerate(ids) if token in newlines and ids[i + 1 :] not in ([], [0])]
            for ids in solutions
        ]
        every = [prefix for of_solution in ends for prefix in of_solution]
        once = set(every)
        counts["samples"] += len(solutions) + rollouts * len(once)
        counts["boundaries"] += len(every)
        counts["prefixes"] += len(once)
        counts["prefill_tokens"] += prompt + sum(prompt + len(prefix) for prefix in once)
        counts["naive_prefill_tokens"] += len(solutions) * prompt + rollouts * sum(prompt + len(p) for p in every)
    return counts


class Counted:
    """The engine, and how much it has drawn."""

    def __init__(self, engine):
        self.engine, self.samples, self.tokens, self.requests = engine, 0, 0, Counter()

    def sample(self, requests, sampling):
        requests = list(requests)
        self.requests.update((one.id, tuple(one.prompt_ids)) for one in requests)
        for drawn in self.engine.sample(requests, sampling):
            self.samples += len(drawn)
            self.tokens += sum(len(one.ids) for one in drawn)
            yield drawn


def test_labelling_costs_what_the_formula_says_and_sharing_saves_prefill(policy):
    problems = [problem for _, problem in zip(range(12), mini.problems("train"), strict=False)]
    engine = Counted(HFEngine(policy))
    scorer = RewardScorer(reward_specs(["exact"], []), RewardResources())
    labeller = Labeller(policy, engine, scorer, PromptForm(), Sampling(6, max_tokens=64), 4)
    with counted_prefill(policy.model) as prefill:
        groups = list(labeller(problems))
    newlines = {token for token in range(len(policy.tokenizer)) if policy.tokenizer.decode([token]).endswith("\n")}
    cost = add_costs(record for records in groups for record in records)
    expected = formula(
        [(len(policy.encode_prompt(group[0]["prompt"])), [one["completion_ids"] for one in group]) for group in groups],
        4,
        newlines,
    )
    assert {name: cost[name] for name in expected} == dict(expected) and set(cost) == set(COST)
    assert (cost["samples"], cost["tokens"]) == (engine.samples, engine.tokens)
    assert cost["prefill_tokens"] == prefill.tokens
    assert max(engine.requests.values()) == 1, "a prefix was completed twice"
    assert cost["prefixes"] < cost["boundaries"]
    assert cost["prefill_tokens"] < 0.7 * cost["naive_prefill_tokens"]
    for records in groups:
        by_prefix = {}
        for one in records:
            for step, value in enumerate(one["step_values"]["mc"][:-1]):
                place = [i for i, token in enumerate(one["completion_ids"]) if token in newlines][step]
                assert by_prefix.setdefault(tuple(one["completion_ids"][: place + 1]), value) == value


# Labels as tokens


@pytest.mark.parametrize(("tied", "spare"), [(True, 0), (False, 0), (False, 8)])
def test_new_tokens_have_rows_that_are_saved(tmp_path, tied, spare):
    policy = spelling_policy(letters="ab[]GODBA", tied=tied, spare=spare)
    before = policy.model.get_input_embeddings().weight.detach().clone()
    old_vocabulary, pieces = len(policy.tokenizer), policy.pieces(range(len(policy.tokenizer)))
    labels.add_tokens(policy, TOKENS)
    assert policy.encode_completion("[GOOD]") == [old_vocabulary] and policy.encode_completion("[BAD]") == [
        old_vocabulary + 1
    ]
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    size = old_vocabulary + max(2, spare)
    assert model.config.vocab_size == model.get_output_embeddings().weight.shape[0] == size
    assert tokenizer.convert_tokens_to_ids(list(TOKENS.names)) == [old_vocabulary, old_vocabulary + 1]
    rows = model.get_input_embeddings().weight
    assert torch.equal(rows[:old_vocabulary], before[:old_vocabulary])
    new = rows[old_vocabulary : old_vocabulary + 2]
    assert torch.equal(new, policy.model.get_input_embeddings().weight[old_vocabulary : old_vocabulary + 2])
    spread = before[:old_vocabulary].std(0)
    assert ((new - before[:old_vocabulary].mean(0)).abs() < 5 * spread).all() and not torch.allclose(new[0], new[1])
    assert torch.cosine_similarity(*(new - before[:old_vocabulary].mean(0)), dim=0) < 0.8  # they can be told apart
    assert (model.get_output_embeddings().weight is rows) == tied
    assert policy.pieces(range(len(policy.tokenizer))) == [*pieces, "", ""]  # no text of a completion's own
    assert torch.isfinite(model(torch.tensor([[old_vocabulary, 2]])).logits).all()


def test_ids_that_the_tokenizer_does_not_know_can_be_drawn():
    """Of an output layer that is padded; RL may well put some mass there."""
    policy = spelling_policy(spare=40)
    sampling = Sampling(20, max_tokens=20, stop=("\n\n",))
    [drawn] = HFEngine(policy).sample([Request("x/0", [2, 3])], sampling)
    known = len(policy.tokenizer)
    assert any(token >= known for one in drawn for token in one.ids)
    for one in drawn:
        pieces = policy.pieces(one.ids)
        assert all(piece == "" for token, piece in zip(one.ids, pieces, strict=True) if token >= known)
        assert "".join(pieces).startswith(one.text)
