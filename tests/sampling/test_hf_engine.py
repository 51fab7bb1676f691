"""The in-process engine on the bundled model: what batching must not change, and where completions end."""

import pytest
import torch
from prefill import counted_prefill
from torch.nn.functional import scaled_dot_product_attention
from transformers import GPTJConfig, GPTJForCausalLM

from reasonrl.errors import RecordError, UsageError
from reasonrl.models.language_model import load_language_model
from reasonrl.prompts import PromptForm
from reasonrl.sampling.hf import attention
from reasonrl.sampling.hf.engine import HFEngine
from reasonrl.sampling.types import Request, Sampling
from reasonrl.tasks import mini
from reasonrl.training.batching import Example, collate
from reasonrl.training.losses import TokenLogprobs


@pytest.fixture(scope="module")
def policy():
    return load_language_model("tiny", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def requests(policy):
    form = PromptForm()
    problems = [problem for problem, _ in zip(mini.problems("test"), range(40), strict=False)]
    return [Request(p["id"], policy.encode_prompt(form.render(p["question"]))) for p in problems]


def ids_of(policy, requests, sampling, batch_tokens=None):
    drawn = HFEngine(policy, batch_tokens).sample(requests, sampling)
    return {(r.id, k): c.ids for r, samples in zip(requests, drawn, strict=True) for k, c in enumerate(samples)}


def agreement(one, other):
    assert one.keys() == other.keys()
    return sum(one[key] == other[key] for key in one) / len(one)


def test_draws_do_not_depend_on_batch_order_or_shard(policy, requests):
    sampling = Sampling(k=6, max_tokens=64, seed=3)
    whole = ids_of(policy, requests, sampling)
    assert ids_of(policy, requests, sampling) == whole  # identical batches: identical, bit for bit
    in_small_batches = ids_of(policy, requests, sampling, batch_tokens=700)
    backwards = ids_of(policy, requests[::-1], sampling)
    shards = ids_of(policy, requests[::2], sampling) | ids_of(policy, requests[1::2], sampling)
    for other in (in_small_batches, backwards, shards):
        assert agreement(whole, other) >= 0.99
    assert agreement(whole, ids_of(policy, requests, Sampling(k=6, max_tokens=64, seed=4))) < 0.5


def test_more_samples_than_the_budget_holds_are_drawn_in_turns(policy, requests):
    sampling = Sampling(k=12, max_tokens=64)
    engine = HFEngine(policy, batch_tokens=300)
    assert engine._rows(60, sampling) < 12
    few = ids_of(policy, requests[:3], sampling, batch_tokens=300)
    assert agreement(few, ids_of(policy, requests[:3], sampling)) >= 0.97  # 36 samples: one may differ


def test_equal_prompts_are_read_once_and_draw_each_their_own(policy, requests):
    sampling = Sampling(k=2, max_tokens=64)
    again = [Request(f"{request.id}/again", request.prompt_ids) for request in requests[:10]]
    mixed = [*requests[:10], *again]
    with counted_prefill(policy.model) as prefill:
        drawn = ids_of(policy, mixed, sampling)
    assert prefill.tokens == sum(len(request.prompt_ids) for request in requests[:10])
    apart = ids_of(policy, requests[:10], sampling) | ids_of(policy, again, sampling)
    assert agreement(drawn, apart) >= 0.97  # 40 samples: one may differ


def test_logprobs_are_the_models_own_whatever_the_temperature(policy, requests):
    logprobs = TokenLogprobs(policy.model)
    for temperature in (0.0, 0.7, 1.0):
        drawn = list(HFEngine(policy).sample(requests[:10], Sampling(k=3, temperature=temperature, max_tokens=64)))
        for request, completions in zip(requests, drawn, strict=False):
            for completion in completions:
                batch = collate([Example(request.prompt_ids, completion.ids)])
                with torch.no_grad():
                    expected = logprobs(batch.input_ids, batch.loss_mask, batch.targets)
                assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=2e-4)


def test_greedy_equals_transformers_generate(policy, requests):
    ours = ids_of(policy, requests[:12], Sampling(temperature=0, max_tokens=48))
    for request in requests[:12]:
        prompt = torch.tensor([request.prompt_ids])
        theirs = policy.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=48, pad_token_id=0
        )
        assert ours[request.id, 0] == theirs[0, len(request.prompt_ids) :].tolist()


def test_a_completion_ends_at_eos_and_nowhere_later(policy, requests):
    for completions in HFEngine(policy).sample(requests[:10], Sampling(k=4, max_tokens=64)):
        for completion in completions:
            ends = [token in policy.eos_ids for token in completion.ids]
            assert sum(ends) == (completion.finish == "eos") == ends[-1]
            assert len(completion.logprobs) == len(completion.ids)


def test_max_tokens_gives_length(policy, requests):
    [[completion]] = HFEngine(policy).sample(requests[:1], Sampling(max_tokens=3))
    assert completion.finish == "length" and len(completion.ids) == 3


def test_stop_string_ends_a_completion_and_is_cut_off_the_text(policy, requests):
    free = Sampling(k=4, max_tokens=64, seed=1)
    bounded = Sampling(k=4, max_tokens=64, seed=1, stop=(" = ", "####"))
    pairs = zip(
        HFEngine(policy).sample(requests[:5], free), HFEngine(policy).sample(requests[:5], bounded), strict=True
    )
    stopped = 0
    for whole, cut in pairs:
        for one, other in zip(whole, cut, strict=True):
            assert other.text == one.text.split(" = ")[0].split("####")[0]
            assert one.ids[: len(other.ids)] == other.ids
            stopped += other.finish == "stop"
            if other.finish == "stop":
                assert any(stop in policy.decode([other.ids])[0] for stop in bounded.stop)
                assert not any(stop in policy.decode([other.ids[:-1]])[0] for stop in bounded.stop)
    assert stopped == 20


def test_a_prompt_as_long_as_the_context_is_refused(policy):
    with pytest.raises(RecordError, match="does not fit the model's context"):
        list(HFEngine(policy).sample([Request("x/0", [5] * policy.context)], Sampling()))


def test_a_prompt_near_the_end_of_the_context_gets_what_is_left(policy):
    [[completion]] = HFEngine(policy).sample([Request("x/0", [5] * (policy.context - 4))], Sampling(max_tokens=50))
    assert len(completion.ids) <= 4


def test_a_long_prompt_does_not_cut_its_neighbours_short(policy, requests):
    long = Request("x/0", requests[0].prompt_ids + [5] * (policy.context - 4 - len(requests[0].prompt_ids)))
    sampling = Sampling(k=2, max_tokens=64)
    together = ids_of(policy, [long, *requests[:3]], sampling)
    assert all(len(together["x/0", k]) <= 4 for k in (0, 1))
    alone = ids_of(policy, requests[:3], sampling)
    assert agreement({key: together[key] for key in alone}, alone) >= 0.8  # 6 samples: one may differ


def test_a_generator_of_requests_is_not_read_to_its_end_first(policy, requests):
    read = []

    def endless():
        while True:
            for request in requests:
                read.append(request.id)
                yield request

    drawn = HFEngine(policy, batch_tokens=2000).sample(endless(), Sampling(k=2, max_tokens=8))
    assert len(next(drawn)) == 2
    assert len(read) < 200


@pytest.mark.parametrize(("groups", "width"), [(4, 8), (2, 8), (1, 5)])
def test_one_query_attends_as_pytorch_has_it(groups, width):
    """Grouped heads, and values narrower than queries (multi-head latent attention)."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(3, heads, n, 8, generator=generator) for heads, n in ((4, 1), (groups, 6)))
    value = torch.randn(3, groups, 6, width, generator=generator)
    mask = torch.rand(3, 1, 1, 6, generator=generator) < 0.7
    mask[..., -1] = True
    out, _ = attention.attend(torch.nn.Module(), query, key, value, mask, scaling=0.3)
    key, value = (part.repeat_interleave(4 // groups, 1) for part in (key, value))
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    assert torch.allclose(out, expected.transpose(1, 2), atol=1e-6)


def test_a_model_with_an_attention_of_its_own_is_refused_not_drawn_from_wrongly(policy, requests):
    config = GPTJConfig(vocab_size=50, n_positions=64, n_embd=16, n_layer=1, n_head=2, rotary_dim=4)
    config._attn_implementation = "eager"
    with (
        pytest.raises(UsageError, match="gptj bring an attention of their own"),
        attention.used_by(GPTJForCausalLM(config)),
    ):
        pass
