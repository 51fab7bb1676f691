"""PPO in one process: what is learned from a rollout. Named after what went wrong for users elsewhere."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import torch
from rollouts import FORM, collect, collector, completion
from transformers import GraniteConfig, GraniteForCausalLM, OPTConfig, OPTForCausalLM

from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.models import adapters
from reasonrl.models.language_model import LanguageModel, check_output_layer, load_language_model
from reasonrl.sampling.types import Completion
from reasonrl.settings import PpoSettings, SftSettings
from reasonrl.tasks import mini
from reasonrl.training import likelihood
from reasonrl.training.loop import without_dropout
from reasonrl.training.ppo.actor_critic import ActorCritic, Reference
from reasonrl.training.ppo.rollouts import estimate, evaluate
from reasonrl.training.ppo.trainer import minibatch_loss, question_order

PROBLEMS = list(islice(mini.problems("train"), 6))


@pytest.fixture
def policy():
    return load_language_model("tiny", device="cpu", dtype="fp32")


def evaluated(policy, rollouts, settings, *, batch_tokens=1 << 13, actor=None):
    """The rollouts as the trainer evaluates them, and the actor that did (a fresh one by default)."""
    reference = Reference(policy, settings.lora_rank)
    actor = actor or ActorCritic(policy, "shared", settings.temperature, lora_rank=settings.lora_rank, seed=0)
    logprobs = lambda part: reference.logprobs(actor, part)
    return evaluate(rollouts, actor, logprobs, batch_tokens, torch.device("cpu")), actor


def naive_logprobs(policy, example, temperature=1.0):
    ids = torch.tensor([example.prompt_ids + example.completion_ids])
    with torch.no_grad():
        logits = policy.model(ids).logits[0].double() / temperature
    logprobs = logits.log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None]).squeeze(-1)
    return logprobs[len(example.prompt_ids) - 1 :].float()


def right(problem):
    return f"So it is {problem['answer']}.\n#### {problem['answer']}"


# Masks, rewards and their places


def test_eos_is_learned_where_padding_is_eos(policy):
    problem = PROBLEMS[0]
    completions = completion(policy, "#### 1"), completion(policy, right(problem))
    rollouts, _ = evaluated(policy, collect(collector(policy, *completions), [problem]), PpoSettings())
    batch = estimate(rollouts, PpoSettings(k=2)).microbatch([1, 0])
    lengths = [len(example.completion_ids) for example in rollouts.examples]
    assert batch.loss_mask.sum(1).tolist() == [lengths[1], lengths[0]] and rollouts.mask.sum(1).tolist() == lengths
    assert batch.targets.tolist() == rollouts.examples[1].completion_ids + rollouts.examples[0].completion_ids
    assert (batch.targets == policy.eos_id).sum() == 2


def test_the_terminal_reward_is_on_the_last_real_token(policy):
    problem = PROBLEMS[0]
    rambling = right(problem) + "\n" * 9 + "So there."
    completions = [completion(policy, text) for text in (right(problem), rambling, "#### -1")]
    rollouts = collect(collector(policy, *completions), [problem])
    for row, paid in enumerate((1.0, 1.0, 0.0)):
        last = len(completions[row].ids) - 1
        assert rollouts.rewards[row, last] == paid
        assert rollouts.rewards[row].sum() == paid
        assert rollouts.examples[row].completion_ids[last] == policy.eos_id


def test_truncated_completions_earn_nothing_and_pay_the_missing_eos_penalty(policy):
    problem = PROBLEMS[0] | {"question": "Is </s> or <|endoftext|> in the prompt?"}
    cut, whole = completion(policy, right(problem), "length"), completion(policy, right(problem))
    rollouts = collect(collector(policy, cut, whole, missing_eos_penalty=0.25), [problem])
    assert rollouts.truncated == [True, False]
    assert rollouts.returns_of_samples.tolist() == [-0.25, 1.0]
    assert rollouts.rewards[0, len(cut.ids) - 1] == -0.25


def test_a_completion_that_a_stop_string_ended_is_paid_at_its_last_token(policy):
    problem = PROBLEMS[0]
    ids = policy.encode_completion(right(problem) + "\nQuestion:")
    stopped = Completion(ids, right(problem), None, "stop")
    rollouts = collect(collector(policy, stopped, rewards=("exact", "dense")), [problem])
    assert rollouts.truncated == [False] and rollouts.mask.sum() == len(ids)
    assert rollouts.rewards[0, -1] >= 1.0
    assert float(rollouts.returns_of_samples[0]) == pytest.approx(rollouts.scores[0].reward)
    assert rollouts.scores[0].reward >= 2


def test_dense_rewards_stand_where_their_steps_end(policy):
    problem = {
        "id": "x/0", "question": "?", "answer": "9", "reference": "2 + 3 = 5\n5 + 1 = 6\n6 + 3 = 9\n#### 9"
    }  # fmt: skip
    solution = completion(policy, "2 + 3 = 5\nnothing\n5 + 1 = 6\n#### 9")
    rewards = ("exact", "dense")
    rollouts = collect(collector(policy, solution, rewards=rewards, weights=("dense=2",)), [problem])
    newlines = [i for i, token in enumerate(solution.ids) if "\n" in policy.tokenizer.decode([token])]
    paid = {place: float(rollouts.rewards[0, place]) for place in rollouts.rewards[0].nonzero().flatten().tolist()}
    # dense: ¼ for each of two intermediate results, 1 for the answer; twice that, and exact's 1, at the end
    assert paid == pytest.approx({newlines[0]: 0.5, newlines[2]: 0.5, len(solution.ids) - 1: 3.0})
    assert rollouts.scores[0].reward == pytest.approx(4.0) == pytest.approx(float(rollouts.returns_of_samples[0]))


def test_orm_rewards_are_summed_with_their_weights(policy):
    problem = PROBLEMS[0]
    solution = completion(policy, right(problem))
    rollouts = collect(collector(policy, solution, rewards=("exact", "orm"), weights=("orm=0.5",)), [problem])
    chance = rollouts.scores[0].results["orm"].reward
    assert 0 < chance < 1
    assert rollouts.rewards[0, len(solution.ids) - 1] == pytest.approx(1 + 0.5 * chance)


# What the trainer computes itself


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_old_logprobs_are_the_trainers_at_the_sampling_temperature(policy, temperature):
    settings = PpoSettings(temperature=temperature)
    rollouts, _ = evaluated(policy, collect(collector(policy, temperature=temperature), PROBLEMS[:2]), settings)
    for row, example in enumerate(rollouts.examples):
        expected = naive_logprobs(policy, example, temperature)
        torch.testing.assert_close(rollouts.logprobs[row, : len(expected)], expected, atol=2e-5, rtol=1e-4)
        at_one = naive_logprobs(policy, example)  # what the engine says is at temperature 1
        torch.testing.assert_close(rollouts.rollout_logprobs[row, : len(at_one)], at_one, atol=2e-5, rtol=1e-4)


def test_kl_is_zero_before_anything_is_learned_and_then_shown_by_both_estimators(policy):
    scored = collect(collector(policy), PROBLEMS[:2])
    before, actor = evaluated(policy, scored, PpoSettings(k=4))
    assert torch.equal(before.logprobs, before.reference_logprobs)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.add_(
            0.02 * torch.randn_like(policy.model.get_input_embeddings().weight)
        )
    frozen = Reference(load_language_model("tiny", device="cpu", dtype="fp32"), 0)
    after = evaluate(scored, actor, lambda part: frozen.logprobs(actor, part), 1 << 13, torch.device("cpu"))
    torch.testing.assert_close(after.reference_logprobs, before.reference_logprobs)
    assert not torch.allclose(after.logprobs, after.reference_logprobs)


def test_rollouts_are_what_sample_draws_and_train_on_its_ids(policy, sh):
    """One generator: the first epoch's rollouts are the samples that `reasonrl sample` gives with the same seed."""
    done = sh("reasonrl sample --task mini --limit 3 --k 2 --seed 5 --max-tokens 64 --device cpu")
    rollouts = collector(policy, k=2, seed=5).draw(PROBLEMS[:3], [0, 0, 0])
    assert [example.completion_ids for example in rollouts.examples] == [one["completion_ids"] for one in done.records]
    again = collector(policy, k=2, seed=5).draw(PROBLEMS[:3], [1, 1, 1])  # the second epoch draws anew
    assert [e.completion_ids for e in again.examples] != [e.completion_ids for e in rollouts.examples]


def test_a_question_that_comes_twice_in_an_update_is_drawn_anew(policy):
    """More rollouts an update than the problems have samples: their second turns are groups of their own."""
    (questions,) = question_order(2, PpoSettings(samples=16, batch_size=16, k=4))
    assert len(questions) == len(set(questions)) == 4
    problems, epochs = [PROBLEMS[index] for index, _ in questions], [epoch for _, epoch in questions]
    rollouts = collector(policy, k=4).draw(problems, epochs)
    drawn = [tuple(example.completion_ids) for example in rollouts.examples]
    first, second = (drawn[4 * questions.index((0, epoch)) :][:4] for epoch in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("wrong", "rewards", "message"),
    [
        ({"question": "word " * 600}, ("exact",), r"x/1: a prompt of \d+ tokens does not fit"),
        ({"question": "What?"}, ("exact",), 'x/1: no field "answer"'),
        ({"question": "What?", "answer": "?"}, ("exact",), "x/1: .*is not one number"),
        ({"question": "What?", "answer": "1", "reference": None}, ("dense",), "x/1: .*reference"),
    ],
)
def test_a_problem_that_cannot_be_worked_on_is_refused_before_any_is_drawn(policy, wrong, rewards, message):
    checked = collector(policy, completion(policy, "#### 1"), rewards=rewards)
    checked.check(PROBLEMS)
    with pytest.raises(ReasonRLError, match=message):
        checked.check([*PROBLEMS, {"id": "x/1"} | wrong])


def test_prompts_are_tokenised_apart_and_as_sample_does(policy):
    rollouts = collector(policy, completion(policy, " 7")).draw([PROBLEMS[0]], [0])
    assert rollouts.examples[0].prompt_ids == policy.encode_prompt(FORM.render(PROBLEMS[0]["question"]))
    assert rollouts.examples[0].completion_ids == [*policy.encode_completion(" 7"), policy.eos_id]


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
def test_neither_loss_nor_gradient_depends_on_the_microbatches(policy, advantage):
    settings = PpoSettings(advantage=advantage, entropy_coefficient=0.01)
    scored = collect(collector(policy), PROBLEMS[:3])
    scored = replace(scored, rewards=scored.rewards + torch.rand_like(scored.rewards) * scored.mask)
    actor = ActorCritic(policy, "shared" if advantage == "gae" else "none", 1.0, lora_rank=0, seed=0)
    results = []
    for batch_tokens in (1, 300, 1 << 13):  # 12 × 1, a few at a time, 1 × 12
        rollouts, _ = evaluated(policy, scored, settings, batch_tokens=batch_tokens, actor=actor)
        experience = estimate(rollouts, settings)
        sums = Counter()
        actor.zero_grad()
        total = 0.0
        for rows in experience.by_length(range(12), batch_tokens):
            part = experience.microbatch(rows)
            loss = minibatch_loss(actor, part, settings, experience.tokens, actor_learns=True, sums=sums)
            loss.backward()
            total += float(loss)
        gradient = torch.cat([p.grad.flatten() for p in actor.parameters() if p.grad is not None])
        results.append((total, gradient, float(sums["approx_kl"]) / experience.tokens))
    for total, gradient, approx_kl in results:
        assert total == pytest.approx(results[0][0], abs=1e-5)
        assert approx_kl == pytest.approx(0.0, abs=1e-6)
        torch.testing.assert_close(gradient, results[0][1], atol=1e-5, rtol=1e-3)
        assert gradient.abs().max() > 1e-4


# Value function, reference, adapters


def test_a_model_that_changes_its_logits_after_the_output_layer_is_refused(policy):
    check_output_layer(policy)
    config = GraniteConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, intermediate_size=16, num_attention_heads=2,
        num_key_value_heads=2, logits_scaling=8.0,
    )  # fmt: skip
    scaled = LanguageModel(
        name="granite", directory="", tokenizer=policy.tokenizer, model=GraniteForCausalLM(config).eval()
    )
    with pytest.raises(UsageError, match="granite"):
        check_output_layer(scaled)
    with pytest.raises(UsageError, match="granite"):  # by sft and rcrl too, before anything is written
        likelihood.train(scaled, [], FORM, SftSettings(device="cpu"), checkpoint=None, about={})


def test_dropout_is_off_in_whatever_way_a_model_writes_it():
    dropped = OPTForCausalLM(
        OPTConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, ffn_dim=16, num_attention_heads=2, dropout=0.5,
            attention_dropout=0.5, word_embed_proj_dim=16, layerdrop=0.5,
        )
    )  # fmt: skip
    policy = LanguageModel(name="opt", directory="", tokenizer=None, model=dropped.train())
    actor = ActorCritic(policy, "shared", 1.0, lora_rank=0, seed=0).train()
    without_dropout(actor)
    ids, loss_mask, targets = torch.arange(8)[None], torch.ones(1, 8, dtype=torch.bool), torch.arange(8)
    first, second = (actor(ids, loss_mask, targets).logprobs for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_critic_warmup_leaves_the_policy_as_it_is(policy, critic):
    settings = PpoSettings(critic=critic)
    actor = ActorCritic(policy, critic, 1.0, lora_rank=0, seed=0)
    rollouts, _ = evaluated(policy, collect(collector(policy), PROBLEMS[:2]), settings, actor=actor)
    rollouts.rewards[:, 0] += 1
    experience = estimate(rollouts, settings)
    with torch.no_grad():
        actor.head.layers[-1].weight.fill_(0.1)
    part = experience.microbatch(list(range(8)))
    minibatch_loss(actor, part, settings, experience.tokens, actor_learns=False, sums=Counter()).backward()
    learned = {name for name, p in actor.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert learned and not any(name.startswith("policy.") for name in learned)
    assert any(name.startswith("trunk.") for name in learned) == (critic == "separate")


def test_values_are_of_the_state_before_the_token_and_start_at_zero(policy):
    scored = collect(collector(policy), PROBLEMS[:1])
    rollouts, actor = evaluated(policy, scored, PpoSettings())
    assert not rollouts.values.any()
    with torch.no_grad():
        actor.head.layers[-1].weight.normal_()
    rollouts, _ = evaluated(policy, scored, PpoSettings(), actor=actor)
    example = rollouts.examples[0]
    with torch.no_grad():
        ids = torch.tensor([example.prompt_ids + example.completion_ids])
        expected = actor.head(policy.model.get_decoder()(ids).last_hidden_state[0])[len(example.prompt_ids) - 1 : -1]
    torch.testing.assert_close(rollouts.values[0, : len(expected)], expected, atol=1e-5, rtol=1e-4)


def test_the_lora_reference_is_the_policy_with_its_adapter_off(policy):
    scored = collect(collector(policy), PROBLEMS[:2])
    expected = [naive_logprobs(policy, example) for example in scored.examples]
    reference = Reference(policy, 4)
    assert reference.copy is None  # no second model in memory
    actor = ActorCritic(policy, "shared", 1.0, lora_rank=4, seed=0)
    with torch.no_grad():
        for name, parameter in actor.policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    rollouts, _ = evaluated(policy, scored, PpoSettings(lora_rank=4), actor=actor)
    for row, initial in enumerate(expected):
        torch.testing.assert_close(rollouts.reference_logprobs[row, : len(initial)], initial, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(rollouts.logprobs[row, : len(initial)], initial, atol=1e-3)


def test_an_adapter_given_as_model_is_merged_so_that_the_reference_is_the_initial_policy(policy, tmp_path):
    trained = adapters.add_lora(policy.model, 4, 0, "CAUSAL_LM")
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    adapters.save(trained, policy, tmp_path)
    initial = load_language_model(str(tmp_path), device="cpu", dtype="fp32")
    base = load_language_model("tiny", device="cpu", dtype="fp32")
    scored = collect(collector(initial), PROBLEMS[:2])
    expected = [naive_logprobs(initial, example) for example in scored.examples]
    rollouts, _ = evaluated(initial, scored, PpoSettings(lora_rank=4))
    for row, logprobs in enumerate(expected):
        torch.testing.assert_close(rollouts.reference_logprobs[row, : len(logprobs)], logprobs, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(naive_logprobs(base, rollouts.examples[row]), logprobs, atol=1e-3)
