"""PPO in one process: what is learnt from a rollout. Named after what went wrong for users elsewhere."""

from collections import Counter
from itertools import islice

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM, OPTConfig, OPTForCausalLM

from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.models import adapters
from reasonrl.models.language_model import LanguageModel, check_output_layer, load_language_model
from reasonrl.models.reward_model import new_reward_model
from reasonrl.prompts import PromptForm
from reasonrl.rewards.registry import RewardResources
from reasonrl.rewards.reward_model import OutcomeReward
from reasonrl.rewards.scorer import RewardScorer
from reasonrl.sampling.hf.engine import HFEngine
from reasonrl.sampling.types import Completion, Sampling
from reasonrl.tasks import mini
from reasonrl.training import likelihood
from reasonrl.training.loop import without_dropout
from reasonrl.training.ppo.actor_critic import ActorCritic, Reference
from reasonrl.training.ppo.rollouts import Collector, Experience, score
from reasonrl.training.ppo.trainer import Settings, estimate_advantages, plan, step_loss

FORM = PromptForm()
PROBLEMS = list(islice(mini.problems("train"), 6))


@pytest.fixture
def policy():
    return load_language_model("tiny", device="cpu", dtype="fp32")


class Said:
    """An engine that says what it is told to: the completions a test needs to look at."""

    def __init__(self, *completions):
        self.completions = completions

    def sample(self, requests, sampling):
        yield from [list(self.completions) for _ in requests]


def completion(policy, text, finish="eos"):
    ids = policy.encode_completion(text) + [policy.eos_id] * (finish == "eos")
    return Completion(ids, text, None, finish)


def collector(policy, *said, rewards=("exact",), weights=(), k=4, penalty=0.0, **draw):
    judge = RewardScorer(choices(rewards, weights), RewardResources(device="cpu"), flexible=False)
    engine = Said(*said) if said else HFEngine(policy)
    sampling = Sampling(k=len(said) or k, stop=FORM.stop, **{"max_tokens": 64} | draw)
    return Collector(policy, engine, judge, FORM, sampling, penalty)


def scored(policy, rollouts, settings, *, batch_tokens=1 << 13, actor=None):
    reference = Reference(policy, settings.lora_rank)
    actor = actor or ActorCritic(policy, "shared", settings.temperature, lora_rank=settings.lora_rank, seed=0)
    score(rollouts, actor, lambda part: reference.logprobs(actor, part), batch_tokens, torch.device("cpu"))
    return actor


def naive_logprobs(policy, example, temperature=1.0):
    ids = torch.tensor([example.prompt_ids + example.completion_ids])
    with torch.no_grad():
        logits = policy.model(ids).logits[0].double() / temperature
    told = logits.log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None]).squeeze(-1)
    return told[len(example.prompt_ids) - 1 :].float()


def right(problem):
    return f"So it is {problem['answer']}.\n#### {problem['answer']}"


# Masks, rewards and their places


def test_eos_is_learnt_where_padding_is_eos(policy):
    problem = PROBLEMS[0]
    rollouts = collector(policy, completion(policy, "#### 1"), completion(policy, right(problem)))([problem], [0])
    scored(policy, rollouts, Settings())
    estimate_advantages(rollouts, Settings(k=2))
    batch = Experience.of(rollouts, [1, 0])
    lengths = [len(example.completion_ids) for example in rollouts.examples]
    assert batch.learnt.sum(1).tolist() == [lengths[1], lengths[0]] and rollouts.mask.sum(1).tolist() == lengths
    assert batch.targets.tolist() == rollouts.examples[1].completion_ids + rollouts.examples[0].completion_ids
    assert (batch.targets == policy.eos_id).sum() == 2


def test_the_terminal_reward_is_on_the_last_real_token(policy):
    problem = PROBLEMS[0]
    rambling = right(problem) + "\n" * 9 + "So there."
    said = [completion(policy, text) for text in (right(problem), rambling, "#### -1")]
    rollouts = collector(policy, *said)([problem], [0])
    for row, paid in enumerate((1.0, 1.0, 0.0)):
        last = len(said[row].ids) - 1
        assert rollouts.rewards[row, last] == paid
        assert rollouts.rewards[row].sum() == paid
        assert rollouts.examples[row].completion_ids[last] == policy.eos_id


def test_truncated_completions_earn_nothing_and_pay_the_missing_eos_penalty(policy):
    problem = PROBLEMS[0] | {"question": "Is </s> or <|endoftext|> in the prompt?"}
    cut, whole = completion(policy, right(problem), "length"), completion(policy, right(problem))
    rollouts = collector(policy, cut, whole, penalty=0.25)([problem], [0])
    assert rollouts.truncated == [True, False]
    assert rollouts.scores().tolist() == [-0.25, 1.0]
    assert rollouts.rewards[0, len(cut.ids) - 1] == -0.25


def test_a_completion_that_a_stop_string_ended_is_paid_at_its_last_token(policy):
    problem = PROBLEMS[0]
    ids = policy.encode_completion(right(problem) + "\nQuestion:")
    said = Completion(ids, right(problem), None, "stop")
    rollouts = collector(policy, said, rewards=("exact", "dense"))([problem], [0])
    assert rollouts.truncated == [False] and rollouts.mask.sum() == len(ids)
    assert rollouts.rewards[0, -1] >= 1.0
    assert float(rollouts.scores()[0]) == pytest.approx(rollouts.judged[0].reward) and rollouts.judged[0].reward >= 2


def test_dense_rewards_stand_where_their_steps_end(policy):
    problem = {
        "id": "x/0", "question": "?", "answer": "9", "reference": "2 + 3 = 5\n5 + 1 = 6\n6 + 3 = 9\n#### 9"
    }  # fmt: skip
    said = completion(policy, "2 + 3 = 5\nnothing\n5 + 1 = 6\n#### 9")
    rewards = ("exact", "dense")
    rollouts = collector(policy, said, rewards=rewards, weights=("dense=2",))([problem], [0])
    newlines = [i for i, token in enumerate(said.ids) if "\n" in policy.tokenizer.decode([token])]
    paid = {place: float(rollouts.rewards[0, place]) for place in rollouts.rewards[0].nonzero().flatten().tolist()}
    # dense: ¼ for each of two intermediate results, 1 for the answer; twice that, and exact's 1, at the end
    assert paid == pytest.approx({newlines[0]: 0.5, newlines[2]: 0.5, len(said.ids) - 1: 3.0})
    assert rollouts.judged[0].reward == pytest.approx(4.0) == pytest.approx(float(rollouts.scores()[0]))


def test_orm_rewards_are_summed_with_their_weights(policy):
    problem = PROBLEMS[0]
    said = completion(policy, right(problem))
    rollouts = collector(policy, said, rewards=("exact", "orm"), weights=("orm=0.5",))([problem], [0])
    chance = rollouts.judged[0].rewards["orm"]
    assert 0 < chance < 1
    assert rollouts.rewards[0, len(said.ids) - 1] == pytest.approx(1 + 0.5 * chance)


# What the trainer computes itself


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_old_logprobs_are_the_trainers_at_the_sampling_temperature(policy, temperature):
    settings = Settings(temperature=temperature)
    rollouts = collector(policy, temperature=temperature)(PROBLEMS[:2], [0, 0])
    scored(policy, rollouts, settings)
    for row, example in enumerate(rollouts.examples):
        expected = naive_logprobs(policy, example, temperature)
        torch.testing.assert_close(rollouts.logprobs[row, : len(expected)], expected, atol=2e-5, rtol=1e-4)
        at_one = naive_logprobs(policy, example)  # what the engine says is at temperature 1
        torch.testing.assert_close(rollouts.drawn[row, : len(at_one)], at_one, atol=2e-5, rtol=1e-4)


def test_kl_is_zero_before_anything_is_learnt_and_then_told_by_both_estimators(policy):
    settings = Settings(k=4)
    rollouts = collector(policy)(PROBLEMS[:2], [0, 0])
    actor = scored(policy, rollouts, settings)
    assert torch.equal(rollouts.logprobs, rollouts.reference)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.add_(
            0.02 * torch.randn_like(policy.model.get_input_embeddings().weight)
        )
    reference = rollouts.reference.clone()
    frozen = Reference(load_language_model("tiny", device="cpu", dtype="fp32"), 0)
    score(rollouts, actor, lambda part: frozen.logprobs(actor, part), 1 << 13, torch.device("cpu"))
    torch.testing.assert_close(rollouts.reference, reference)
    assert not torch.allclose(rollouts.logprobs, rollouts.reference)


def test_rollouts_are_what_sample_draws_and_train_on_its_ids(policy, sh):
    """One generator: the first epoch's rollouts are the samples that `reasonrl sample` gives with the same seed."""
    done = sh("reasonrl sample --task mini --limit 3 --k 2 --seed 5 --max-tokens 64 --device cpu")
    rollouts = collector(policy, k=2, seed=5)(PROBLEMS[:3], [0, 0, 0])
    assert [example.completion_ids for example in rollouts.examples] == [one["completion_ids"] for one in done.records]
    again = collector(policy, k=2, seed=5)(PROBLEMS[:3], [1, 1, 1])  # the second epoch draws anew
    assert [e.completion_ids for e in again.examples] != [e.completion_ids for e in rollouts.examples]


def test_a_question_that_comes_twice_in_an_update_is_drawn_anew(policy):
    """More rollouts an update than the problems have samples: their second turns are groups of their own."""
    (questions,) = plan(2, Settings(samples=16, batch_size=16, k=4))
    assert len(questions) == len(set(questions)) == 4
    rollouts = collector(policy, k=4)([PROBLEMS[index] for index, _ in questions], [again for _, again in questions])
    drawn = [tuple(example.completion_ids) for example in rollouts.examples]
    first, second = (drawn[4 * questions.index((0, again)) :][:4] for again in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("wrong", "rewards", "said"),
    [
        ({"question": "word " * 600}, ("exact",), r"x/1: a prompt of \d+ tokens does not fit"),
        ({"question": "What?"}, ("exact",), 'x/1: no field "answer"'),
        ({"question": "What?", "answer": "?"}, ("exact",), "x/1: .*is not one number"),
        ({"question": "What?", "answer": "1", "reference": None}, ("dense",), "x/1: .*reference"),
    ],
)
def test_a_problem_that_cannot_be_worked_on_is_told_before_any_is_drawn(policy, wrong, rewards, said):
    collect = collector(policy, completion(policy, "#### 1"), rewards=rewards)
    collect.check(PROBLEMS)
    with pytest.raises(ReasonRLError, match=said):
        collect.check([*PROBLEMS, {"id": "x/1"} | wrong])


def test_prompts_are_tokenised_apart_and_as_sample_does(policy):
    rollouts = collector(policy, completion(policy, " 7"))([PROBLEMS[0]], [0])
    assert rollouts.examples[0].prompt_ids == policy.encode_prompt(FORM.render(PROBLEMS[0]["question"]))
    assert rollouts.examples[0].completion_ids == [*policy.encode_completion(" 7"), policy.eos_id]


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
def test_neither_loss_nor_gradient_depends_on_the_microbatches(policy, advantage):
    settings = Settings(advantage=advantage, entropy_coefficient=0.01)
    rollouts = collector(policy)(PROBLEMS[:3], [0, 0, 0])
    rollouts.rewards += torch.rand_like(rollouts.rewards) * rollouts.mask
    actor = ActorCritic(policy, "shared" if advantage == "gae" else "none", 1.0, lora_rank=0, seed=0)
    found = []
    for batch_tokens in (1, 300, 1 << 13):  # 12 × 1, a few at a time, 1 × 12
        scored(policy, rollouts, settings, batch_tokens=batch_tokens, actor=actor)
        estimate_advantages(rollouts, settings)
        sums = Counter()
        actor.zero_grad()
        total = 0.0
        for rows in rollouts.by_length(range(12), batch_tokens):
            part = Experience.of(rollouts, rows)
            loss = step_loss(actor, part, settings, rollouts.tokens, actor_learns=True, sums=sums)
            loss.backward()
            total += float(loss)
        gradient = torch.cat([p.grad.flatten() for p in actor.parameters() if p.grad is not None])
        found.append((total, gradient, float(sums["approx_kl"]) / rollouts.tokens))
    for total, gradient, approx_kl in found:
        assert total == pytest.approx(found[0][0], abs=1e-5)
        assert approx_kl == pytest.approx(0.0, abs=1e-6)
        torch.testing.assert_close(gradient, found[0][1], atol=1e-5, rtol=1e-3)
        assert gradient.abs().max() > 1e-4


# Value function, reference, adapters


def test_a_model_that_changes_its_logits_behind_the_output_layer_is_refused(policy):
    check_output_layer(policy)
    config = GraniteConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, intermediate_size=16, num_attention_heads=2,
        num_key_value_heads=2, logits_scaling=8.0,
    )  # fmt: skip
    scaled = LanguageModel("granite", "", policy.tokenizer, GraniteForCausalLM(config).eval())
    with pytest.raises(UsageError, match="granite"):
        check_output_layer(scaled)
    with pytest.raises(UsageError, match="granite"):  # by sft and rcrl too, before anything is written
        likelihood.train(scaled, [], FORM, likelihood.Settings(), checkpoint=None, device="cpu")


def test_dropout_is_off_in_whatever_way_a_model_writes_it():
    dropped = OPTForCausalLM(
        OPTConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, ffn_dim=16, num_attention_heads=2, dropout=0.5,
            attention_dropout=0.5, word_embed_proj_dim=16, layerdrop=0.5,
        )
    )  # fmt: skip
    policy = LanguageModel("opt", "", None, dropped.train())
    actor = ActorCritic(policy, "shared", 1.0, lora_rank=0, seed=0).train()
    without_dropout(actor)
    ids, wanted, targets = torch.arange(8)[None], torch.ones(1, 8, dtype=torch.bool), torch.arange(8)
    first, second = (actor(ids, wanted, targets).logprobs for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_critic_warmup_leaves_the_policy_as_it_is(policy, critic):
    settings = Settings(critic=critic)
    rollouts = collector(policy)(PROBLEMS[:2], [0, 0])
    actor = ActorCritic(policy, critic, 1.0, lora_rank=0, seed=0)
    scored(policy, rollouts, settings, actor=actor)
    rollouts.rewards[:, 0] += 1
    estimate_advantages(rollouts, settings)
    with torch.no_grad():
        actor.head.layers[-1].weight.fill_(0.1)
    part = Experience.of(rollouts, list(range(8)))
    step_loss(actor, part, settings, rollouts.tokens, actor_learns=False, sums=Counter()).backward()
    learnt = {name for name, p in actor.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert learnt and not any(name.startswith("policy.") for name in learnt)
    assert any(name.startswith("trunk.") for name in learnt) == (critic == "separate")


def test_values_are_of_the_state_before_the_token_and_start_at_zero(policy):
    rollouts = collector(policy)(PROBLEMS[:1], [0])
    actor = scored(policy, rollouts, Settings())
    assert not rollouts.values.any()
    with torch.no_grad():
        actor.head.layers[-1].weight.normal_()
    scored(policy, rollouts, Settings(), actor=actor)
    example = rollouts.examples[0]
    with torch.no_grad():
        ids = torch.tensor([example.prompt_ids + example.completion_ids])
        expected = actor.head(policy.model.get_decoder()(ids).last_hidden_state[0])[len(example.prompt_ids) - 1 : -1]
    torch.testing.assert_close(rollouts.values[0, : len(expected)], expected, atol=1e-5, rtol=1e-4)


def test_the_lora_reference_is_the_policy_with_its_adapter_off(policy):
    settings = Settings(lora_rank=4)
    rollouts = collector(policy)(PROBLEMS[:2], [0, 0])
    expected = [naive_logprobs(policy, example) for example in rollouts.examples]
    reference = Reference(policy, 4)
    assert reference.copy is None  # no second model in memory
    actor = ActorCritic(policy, "shared", 1.0, lora_rank=4, seed=0)
    with torch.no_grad():
        for name, parameter in actor.policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    scored(policy, rollouts, settings, actor=actor)
    for row, told in enumerate(expected):
        torch.testing.assert_close(rollouts.reference[row, : len(told)], told, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(rollouts.logprobs[row, : len(told)], told, atol=1e-3)


def test_an_adapter_given_as_model_is_merged_so_that_the_reference_is_the_initial_policy(policy, tmp_path):
    trained = adapters.add_lora(policy, 4, "CAUSAL_LM", 0)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    adapters.save(trained, policy, tmp_path)
    initial = load_language_model(str(tmp_path), device="cpu", dtype="fp32")
    base = load_language_model("tiny", device="cpu", dtype="fp32")
    rollouts = collector(initial)(PROBLEMS[:2], [0, 0])
    expected = [naive_logprobs(initial, example) for example in rollouts.examples]
    scored(initial, rollouts, Settings(lora_rank=4))
    for row, told in enumerate(expected):
        torch.testing.assert_close(rollouts.reference[row, : len(told)], told, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(naive_logprobs(base, rollouts.examples[row]), told, atol=1e-3)


# The plan


def test_every_question_comes_once_an_epoch_and_batches_are_whole():
    settings = Settings(samples=96, batch_size=16, k=2, seed=3)
    updates = plan(10, settings)
    assert [len(questions) for questions in updates] == [8] * 6
    told = [pair for questions in updates for pair in questions]
    assert len(set(told)) == 48
    for epoch in range(4):
        assert sorted(index for index, again in told if again == epoch) == list(range(10))
    assert plan(10, settings) == updates != plan(10, Settings(samples=96, batch_size=16, k=2, seed=4))


def test_settings_that_do_not_fit_together_are_refused():
    for wrong, said in (
        (Settings(batch_size=10, k=4), "no multiple of --k 4"),
        (Settings(batch_size=8, k=4, minibatches=16), "16 minibatches"),
        (Settings(k=1, advantage="grpo"), "--k 2 or more"),
    ):
        with pytest.raises(UsageError, match=said):
            wrong.check(1)


def test_completions_too_long_for_the_verifier_are_foreseen(policy):
    collect = collector(policy, completion(policy, "#### 1"), rewards=("orm",))
    verifier = new_reward_model("tiny", device="cpu")  # of the policy's own tokenizer
    collect.judge.rewards = [OutcomeReward(verifier, FORM)]
    longest = max(len(policy.encode_prompt(FORM.render(problem["question"]))) for problem in PROBLEMS)
    verifier.context = longest + collect.sampling.max_tokens
    collect.check(PROBLEMS)
    verifier.context -= 1
    with pytest.raises(ReasonRLError, match=r"mini/train/.*smaller --max-tokens"):
        collect.check(PROBLEMS)


def test_rewards_are_calculated_in_their_own_precision_whatever_the_policy_is(policy):
    collect = collector(policy, completion(policy, "#### 1"), completion(policy, "Two.\n#### 2"), rewards=("orm",))
    plain = collect(PROBLEMS[:2], [0, 0]).scores()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(collect(PROBLEMS[:2], [0, 0]).scores(), plain)
