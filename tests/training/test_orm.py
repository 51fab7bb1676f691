"""The outcome reward model: where steps end, what is learned, and that a score depends on nothing it should not."""

import json
import random
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GraniteConfig, GraniteForCausalLM

from reasonrl.errors import ReasonRLError, RecordError, UsageError
from reasonrl.evaluation import calibration
from reasonrl.evaluation.plots import plot_reliability
from reasonrl.grading.steps import steps
from reasonrl.models import adapters
from reasonrl.models.language_model import load_language_model, load_tokenizer
from reasonrl.models.reward_model import head, is_reward_model, load_reward_model, new_reward_model
from reasonrl.prompts import PromptForm
from reasonrl.rewards.reward_model import EncodedSolution, SolutionEncoder, logits
from reasonrl.tasks import mini
from reasonrl.training.orm.examples import GradedSolution, balanced, collate_rows, in_rows, is_held_out
from reasonrl.training.orm.trainer import weighted_loss


@pytest.fixture(scope="module")
def verifier():
    """The tiny model under a head that says something."""
    made = new_reward_model("tiny", device="cpu")
    torch.manual_seed(0)
    torch.nn.init.normal_(head(made.model).weight, std=0.5)
    return made


@pytest.fixture(scope="module")
def encode(verifier):
    return SolutionEncoder(verifier, PromptForm())


def record(completion, finish="eos", **more):
    return {"id": "x/0", "question": "How many pens?", "completion": completion, "finish": finish} | more


def some_solutions(encode, n=24):
    problems = islice(mini.imperfect("test", 0.5), n)
    return [encode(record(problem["reference"], question=problem["question"])) for problem in problems]


# Where steps end


def test_a_step_ends_at_its_newline_and_the_last_at_eos(verifier, encode):
    solution = encode(record("Ann has 3 + 4 = 7 pens.\n\nSo 7.\n#### 7"))
    prompt = len(verifier.encode_prompt("Question: How many pens?\nAnswer:\n"))
    shown = [verifier.decode([solution.ids[prompt : end + 1]])[0] for end in solution.ends]
    assert [text.rstrip("\n") for text in shown] == [
        "Ann has 3 + 4 = 7 pens.", "Ann has 3 + 4 = 7 pens.\n\nSo 7.", "Ann has 3 + 4 = 7 pens.\n\nSo 7.\n#### 7",
    ]  # fmt: skip
    assert solution.ids[-1] == verifier.eos_id and solution.ends[-1] == len(solution) - 1
    assert all("\n" in verifier.tokenizer.decode([solution.ids[end]]) for end in solution.ends[:-1])


def test_without_eos_the_last_token_stands_for_it(verifier, encode):
    solution = encode(record("One.\nTw", finish="length"))
    assert solution.ids[-1] != verifier.eos_id and solution.ends[-1] == len(solution) - 1
    whole_line = encode(record("One.\n", finish="length"))
    assert len(whole_line.ends) == 1 and whole_line.ends[-1] == len(whole_line) - 1


def test_a_solution_without_a_step_has_its_end(encode):
    for text, finish in (("", "eos"), ("\n \n", "eos"), ("", "length")):
        solution = encode(record(text, finish))
        assert solution.ends == [len(solution) - 1]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab7 .\n\t\r#é\u00a0\u2028<|eos|>", max_size=40), st.sampled_from(["eos", "length", "stop"]))
def test_there_is_one_end_for_each_step(encode, text, finish):
    solution = encode(record(text, finish))
    assert len(solution.ends) == max(1, len(steps(text)))
    assert solution.ends == sorted(solution.ends) and solution.ends[-1] == len(solution) - 1


def test_own_ids_are_scored_as_they_were_drawn(verifier, encode):
    odd = [i for c in "left" for i in verifier.encode_completion(c)]
    drawn = record(verifier.decode([odd])[0], "length", completion_ids=odd, tokenizer=verifier.tokenizer_hash)
    assert encode(drawn).ids[-len(odd) :] == odd
    assert encode(drawn | {"tokenizer": "another"}).ids[-len(odd) :] != odd


def test_an_edited_text_is_scored_as_it_stands(verifier, encode):
    ids = [*verifier.encode_completion("1 + 1 = 3\n#### 3"), verifier.eos_id]
    edited = record("1 + 1 = 2\n#### 2")
    assert encode(edited | {"completion_ids": ids, "tokenizer": verifier.tokenizer_hash}).ids == encode(edited).ids


def test_what_cannot_be_scored(encode):
    with pytest.raises(RecordError, match="do not fit"):
        encode(record("word " * 600))
    with pytest.raises(RecordError, match="completion"):
        encode({"id": "x", "question": "?"})
    with pytest.raises(RecordError, match="token ids"):
        encode(record("x", completion_ids="17", tokenizer=encode.tokenizer_hash))


# What a score depends on


def test_the_score_of_a_prefix_does_not_depend_on_what_follows(verifier, encode):
    for solution in some_solutions(encode):
        whole = logits(verifier.model, [solution], 4096)[0]
        assert len(whole) == len(solution.ends) and len({round(value, 3) for value in whole}) > 1
        for number, end in enumerate(solution.ends):
            prefix = EncodedSolution(solution.ids[: end + 1], [end])
            other = EncodedSolution([*solution.ids[: end + 1], 7, 300, 5], [end])
            for part in (prefix, other):
                assert logits(verifier.model, [part], 4096)[0][0] == pytest.approx(whole[number], abs=1e-4)


def test_scores_do_not_depend_on_the_batch(verifier, encode):
    solutions = some_solutions(encode)
    alone = [logits(verifier.model, [solution], 1)[0] for solution in solutions]
    shuffled = random.Random(0).sample(range(len(solutions)), len(solutions))
    for max_tokens in (1, 200, 100_000):
        together = logits(verifier.model, [solutions[i] for i in shuffled], max_tokens)
        for place, values in zip(shuffled, together, strict=True):
            assert values == pytest.approx(alone[place], abs=1e-4)


# What is learned


def example(question, label, ends=(3,)):
    return GradedSolution(question, EncodedSolution(list(range(ends[-1] + 1)), list(ends)), label)


def test_weights_balance_questions_and_labels():
    examples = [example("a", True)] + [example("a", False)] * 3 + [example("b", False)] * 2 + [example("c", True)] * 6
    weights = [e.weight for e in balanced(examples)]
    assert np.mean(weights) == pytest.approx(1)
    assert weights == pytest.approx([3, 1, 1, 1, 1.5, 1.5] + [0.5] * 6)  # each question and label the same: 3
    with pytest.raises(ReasonRLError, match="wrong"):
        balanced([example("a", False)] * 3)


def test_every_step_end_carries_the_label_and_its_share_of_the_weight():
    rows = in_rows([example("a", True, (1, 3)), example("b", False, (2,))], False)
    batch = collate_rows(rows, "all")
    assert batch.input_ids.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0]]
    assert list(zip(batch.rows.tolist(), batch.places.tolist(), strict=True)) == [(0, 1), (0, 3), (1, 2)]
    assert batch.labels.tolist() == [1, 1, 0] and batch.weights.tolist() == [0.5, 0.5, 1]
    assert batch.mask is None and batch.positions is None
    final = collate_rows(rows, "final")
    assert final.places.tolist() == [3, 2] and final.weights.tolist() == [1, 1]


def of_questions(encode, questions=6, each=4):
    """Balanced examples: of each question its reference and imperfect solutions."""
    examples = []
    for number, (right, *wrong) in enumerate(islice(zip(*(
        [mini.problems("test")] + [mini.imperfect("test", 0.5, seed) for seed in range(each - 1)]
    ), strict=False), questions)):  # fmt: skip
        texts = [right["reference"], *(one["reference"] for one in wrong)]
        solutions = [encode(record(text, question=right["question"])) for text in texts]
        examples += [GradedSolution(str(number), one, not place) for place, one in enumerate(solutions)]
    return balanced(examples)


def test_solutions_after_one_prompt_learn_what_they_learn_alone(verifier, encode):
    examples = of_questions(encode)
    embeddings = verifier.model.get_input_embeddings().weight
    results = []
    for share in (False, True):
        rows = in_rows(examples, share)
        assert len(rows) == (6 if share else 24) and sum(len(row.examples) for row in rows) == 24
        verifier.model.zero_grad()
        loss = weighted_loss(verifier.model, collate_rows(rows, "all"), embeddings, 0.5)
        loss.backward()
        results.append((loss.item(), [p.grad.clone() for p in verifier.model.parameters()]))
    verifier.model.zero_grad()
    (alone, gradients), (shared, shared_gradients) = results
    assert shared == pytest.approx(alone, rel=1e-5)
    for one, other in zip(gradients, shared_gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3)
    assert len(collate_rows(in_rows(examples, True), "all").input_ids[0]) < 3 * max(map(len, examples))


def test_the_language_model_loss_is_the_policy_s_on_right_solutions(encode):
    fresh, policy = new_reward_model("tiny", device="cpu"), load_language_model("tiny", device="cpu").model
    examples = of_questions(encode)
    batch, embeddings = collate_rows(in_rows(examples, True), "all"), fresh.model.get_input_embeddings().weight
    with torch.no_grad():
        words = weighted_loss(fresh.model, batch, embeddings, 1.0) - weighted_loss(fresh.model, batch)
    expected = 0.0
    for example in examples:
        ids, prompt = torch.tensor([example.solution.ids]), example.solution.prompt
        logprobs = policy(ids).logits[0, prompt - 1 : -1].log_softmax(-1)
        expected -= example.weight * example.label * logprobs.gather(1, ids[0, prompt:, None]).mean().item()
    assert words.item() == pytest.approx(expected, rel=1e-5)


def test_a_verifier_that_writes_on_is_refused_where_logits_are_changed_after_the_output_layer(tmp_path):
    tokenizer = load_tokenizer("tiny").tokenizer
    config = GraniteConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=16, num_attention_heads=2,
        num_key_value_heads=2, logits_scaling=8.0, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    GraniteForCausalLM(config).save_pretrained(tmp_path / "granite")
    tokenizer.save_pretrained(tmp_path / "granite")
    with pytest.raises(UsageError, match="granite change the output layer's logits"):
        new_reward_model(str(tmp_path / "granite"), device="cpu", writes=True)


def test_held_out_is_by_question_and_seed():
    ids = [f"mini/train/{i}" for i in range(4000)]
    held = [is_held_out(i, 0.25, 0) for i in ids]
    assert np.mean(held) == pytest.approx(0.25, abs=0.03)
    assert all(is_held_out(i, 0.5, 0) for i, h in zip(ids, held, strict=True) if h)  # a larger part holds the smaller
    assert held != [is_held_out(i, 0.25, 1) for i in ids]
    assert not any(is_held_out(i, 0, 0) for i in ids)


# Loading


def test_a_new_verifier_says_one_half(encode):
    fresh = new_reward_model("tiny", device="cpu")
    assert {value for values in logits(fresh.model, some_solutions(encode), 4096) for value in values} == {0.0}


def test_it_loads_in_plain_transformers(verifier, encode, tmp_path):
    from transformers import AutoModelForTokenClassification

    adapters.save(verifier.model, verifier, tmp_path)
    assert is_reward_model(str(tmp_path)) and not is_reward_model("tiny")
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path)
    solution = some_solutions(encode, 1)[0]
    with torch.no_grad():
        expected = plain(torch.tensor([solution.ids])).logits[0, solution.ends, 0].tolist()
    again = load_reward_model(str(tmp_path), device="cpu")
    assert logits(again.model, [solution], 99)[0] == pytest.approx(expected, abs=1e-5)
    assert logits(verifier.model, [solution], 99)[0] == pytest.approx(expected, abs=1e-5)
    kept = new_reward_model(str(tmp_path), device="cpu")  # going on from a verifier keeps its head
    assert logits(kept.model, [solution], 99)[0] == pytest.approx(expected, abs=1e-5)


def test_an_adapter_loads_with_its_head(encode, tmp_path):
    made = new_reward_model("tiny", device="cpu")
    model = adapters.add_lora(made.model, 4, 0, "TOKEN_CLS")
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    assert head(model).weight.requires_grad
    adapters.save(model, made, tmp_path)
    assert (tmp_path / "adapter_config.json").exists() and not (tmp_path / "model.safetensors").exists()
    assert is_reward_model(str(tmp_path))
    solution = some_solutions(encode, 1)[0]
    expected = logits(model.eval(), [solution], 99)[0]
    assert any(abs(value) > 0.01 for value in expected)
    again = load_reward_model(str(tmp_path), device="cpu")
    assert logits(again.model, [solution], 99)[0] == pytest.approx(expected, abs=1e-4)


def test_an_adapter_on_the_last_layers_leaves_those_below_out_of_the_graph():
    made = new_reward_model("tiny", device="cpu")
    model = adapters.add_lora(made.model, 4, 0, "TOKEN_CLS", last=1)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all("layers.1." in name or "score" in name or "classifier" in name for name in learning), learning
    below = []
    model.base_model.model.model.layers[0].register_forward_hook(lambda _, __, out: below.append(out[0].requires_grad))
    assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.requires_grad and below == [False]


def test_a_policy_is_no_verifier():
    with pytest.raises(UsageError, match="no outcome reward model"):
        load_reward_model("tiny")


# How good it is


def pairs(score, label):
    right = [s for s, y in zip(score, label, strict=True) if y]
    wrong = [s for s, y in zip(score, label, strict=True) if not y]
    return np.mean([(r > w) + (r == w) / 2 for r in right for w in wrong])


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_counts_pairs(rows):
    score, label = np.array([float(s) for s, _ in rows]), np.array([float(y) for _, y in rows])
    if 0 < label.sum() < len(label):
        assert calibration.auc(score, label) == pytest.approx(pairs(score, label))
        doubled = calibration.auc(score, label, np.full(len(score), 2.0))
        assert doubled == pytest.approx(calibration.auc(score, label))
    else:
        assert np.isnan(calibration.auc(score, label))


def test_auc_weights_are_copies():
    dice = np.random.default_rng(0)
    score, label, copies = dice.integers(0, 9, 50) / 9, dice.integers(0, 2, 50) * 1.0, dice.integers(0, 4, 50)
    expected = calibration.auc(score.repeat(copies), label.repeat(copies))
    assert calibration.auc(score, label, copies.astype(float)) == pytest.approx(expected)


def test_auc_within_questions_ignores_how_hard_they_are():
    question = np.array(["easy"] * 4 + ["hard"] * 4)
    label = np.array([1, 1, 1, 0, 1, 0, 0, 0.0])
    score = np.array([0.9] * 4 + [0.1] * 4)
    assert calibration.auc(score, label) == pytest.approx(0.75)
    assert calibration.auc_within(score, label, question) == pytest.approx(0.5)


@pytest.mark.slow
def test_the_interval_covers_what_it_should():
    dice, covered = np.random.default_rng(1), 0

    def draw(questions):
        hard = dice.normal(size=questions).repeat(8)  # solutions of a question are alike
        label = (dice.normal(size=8 * questions) > hard).astype(float)
        return label + dice.normal(size=8 * questions) * 1.5 - hard, label

    truth = calibration.auc(*draw(20_000))
    for trial in range(40):
        interval = calibration.auc_interval(*draw(60), np.arange(60).repeat(8), trial)
        covered += interval.low <= truth <= interval.high
    assert covered >= 34  # of 40; 38 are expected, and fewer than 34 in one of 50 tries


def test_calibration_by_hand():
    probability, label = np.array([0.05, 0.08, 0.95, 1.0, 0.55]), np.array([0, 1, 1, 1, 0.0])
    bins = calibration.reliability(probability, label)
    assert [part.count for part in bins] == [2, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    expected = (2 * abs(0.065 - 0.5) + 1 * 0.55 + 2 * abs(0.975 - 1)) / 5
    assert calibration.expected_calibration_error(bins) == pytest.approx(expected)


def test_platt_finds_scale_and_shift():
    dice = np.random.default_rng(0)
    logit = dice.normal(size=20_000) * 2
    label = (dice.random(20_000) < 1 / (1 + np.exp(-(0.5 * logit - 1)))).astype(float)
    assert calibration.platt(logit, label) == pytest.approx((0.5, -1), abs=0.06)
    scale, shift = calibration.platt(np.array([-1.0, 1.0]), np.array([0.0, 1.0]))  # separable: still finite
    assert np.isfinite([scale, shift]).all() and scale > 0


def test_the_report_is_json(tmp_path):
    steps = [np.array([0.2, 0.9]), np.array([0.4]), np.array([0.6, 0.7, 0.1])]
    report = calibration.report(steps, np.array([1.0, 0.0, 0.0]), np.array(["a", "a", "b"]))
    assert [row["n"] for row in report["by_step"]] == [3, 2, 1]
    assert report["accuracy"] == 1 and report["auc"] == 1 and report["right"] == pytest.approx(1 / 3)
    assert np.isnan(report["by_step"][2]["auc"])
    from reasonrl.io import jsonl

    assert json.loads(jsonl.dumps(report))["by_step"][2]["auc"] is None
    plot_reliability(report["bins"], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
