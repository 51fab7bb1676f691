"""Tokenizers that break what relies on luck: pad is EOS, no pad, no BOS, a BOS of its own, tokens that merge across."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, PreTrainedTokenizerFast

from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.models.language_model import load_language_model, load_tokenizer
from reasonrl.prompts import PromptForm
from reasonrl.sampling.hf.engine import HFEngine
from reasonrl.sampling.types import Request, Sampling
from reasonrl.training.batching import Example, collate
from reasonrl.training.losses import TokenLogprobs
from reasonrl.training.sft import to_example

LETTERS = ["Ċ", "Ġ", *":QAuestionwr1234567890+=#.?abcdfghjklmpvxyz"]
MERGE = ("Ċ", "1")  # the prompt's last character and the completion's first would become one token


def tokenizer(bos: bool, pad: str | None) -> PreTrainedTokenizerFast:
    names = ["</s>", "<s>", "<pad>", *LETTERS, "".join(MERGE)]
    inner = Tokenizer(models.BPE({name: i for i, name in enumerate(dict.fromkeys(names))}, [MERGE]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", bos_token="<s>" if bos else None, pad_token=pad
    )


@pytest.fixture(scope="module", params=["pad is EOS", "no pad", "no BOS", "BOS"])
def policy(request, tmp_path_factory):
    kind = request.param
    chosen = tokenizer(kind != "no BOS", {"pad is EOS": "</s>", "no pad": None}.get(kind, "<pad>"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(chosen), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=0, bos_token_id=1,
        pad_token_id=chosen.pad_token_id,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(directory)
    chosen.save_pretrained(directory)
    return load_language_model(str(directory), device="cpu", dtype="fp32")


def test_a_prompt_has_exactly_one_bos_where_the_tokenizer_has_one(policy):
    for text in ("Question: 1", "<s>Question: 1"):
        if text.startswith("<s>") and policy.tokenizer.bos_token is None:
            continue
        ids = policy.encode_prompt(text)
        assert ids.count(1) == (policy.tokenizer.bos_token is not None) and ids[:1] != [0]


def test_tokens_that_would_merge_across_the_boundary_do_not(policy):
    form = PromptForm()
    example = to_example(
        {"question": "1 + 1?", "completion": "1 + 1 = 2", "finish": "eos"}, policy, form, policy.tokenizer_hash
    )
    merged = policy.tokenizer.convert_tokens_to_ids("".join(MERGE))
    assert merged in policy.tokenizer.encode(form.render("1 + 1?") + "1", add_special_tokens=False)
    assert merged not in example.prompt_ids + example.completion_ids
    assert policy.decode([example.completion_ids]) == ["1 + 1 = 2"]
    assert example.completion_ids[-1] == policy.eos_id and example.completion_ids.count(0) == 1


def test_eos_is_in_the_loss_and_padding_is_not_whatever_their_ids(policy):
    short, long = Example([5, 6], [7, 0]), Example([5, 6, 7], [8, 9, 10, 11, 0])
    batch = collate([short, long])
    assert batch.targets.tolist() == [7, 0, 8, 9, 10, 11, 0]
    logprobs = lambda one: TokenLogprobs(policy.model)(one.input_ids, one.loss_mask, one.targets)
    alone = [logprobs(collate([example])) for example in (short, long)]
    together = logprobs(batch)
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_samples_of_prompts_of_different_lengths_are_those_drawn_alone(policy):
    prompts = ["Question: 1\nAnswer:\n", "Question: 12 + 34 + 5?\nAnswer:\n"]
    requests = [Request(f"x/{i}", policy.encode_prompt(prompt)) for i, prompt in enumerate(prompts)]
    sampling = Sampling(k=8, max_tokens=16)
    together = list(HFEngine(policy).sample(requests, sampling))
    alone = [next(HFEngine(policy).sample([request], sampling)) for request in requests]
    same = [a.ids == b.ids for one, other in zip(together, alone, strict=True) for a, b in zip(one, other, strict=True)]
    assert sum(same) >= 15  # rounding may tip one draw
    for completion in together[0] + together[1]:
        assert (completion.ids[-1] == 0) == (completion.finish == "eos") and 0 not in completion.ids[:-1]


def test_a_tokenizer_without_eos_is_one_line(tmp_path):
    chosen = tokenizer(True, None)
    chosen.eos_token = None
    chosen.save_pretrained(tmp_path)
    LlamaConfig(vocab_size=len(chosen), eos_token_id=None).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no EOS token"):
        load_language_model(str(tmp_path))


def test_a_context_ends_where_positions_no_longer_see_each_other(tmp_path):
    chosen = tokenizer(True, None)
    chosen.save_pretrained(tmp_path)
    for window, context in ((16, 16), (None, 64)):
        MistralConfig(vocab_size=len(chosen), max_position_embeddings=64, sliding_window=window).save_pretrained(
            tmp_path
        )
        assert load_tokenizer(str(tmp_path)).context == context


def test_weights_that_are_not_there_are_one_line(tmp_path):
    tokenizer(True, None).save_pretrained(tmp_path)
    LlamaConfig(vocab_size=50).save_pretrained(tmp_path)
    with pytest.raises(ReasonRLError, match="cannot load model"):
        load_language_model(str(tmp_path))
