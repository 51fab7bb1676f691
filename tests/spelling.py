"""A model small enough to be wrong in every way: random weights, and a tokenizer that spells."""

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reasonrl.models.language_model import LanguageModel


def spelling_policy(letters="ab", extra=(), seed=0, tied=False, spare=0):
    """A random policy that spells with single letters and newlines: few enough to enumerate what it can say."""
    vocabulary = {token: i for i, token in enumerate(["<eos>", "\n", *letters, *extra])}
    spelling = Tokenizer(models.WordLevel(vocabulary, unk_token=letters[0]))
    spelling.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    spelling.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=spelling, eos_token="<eos>", additional_special_tokens=list(extra)
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary) + spare, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, initializer_range=0.5, tie_word_embeddings=tied, eos_token_id=0, bos_token_id=None,
    )  # fmt: skip
    return LanguageModel(
        name="letters", directory="nowhere", tokenizer=tokenizer, model=LlamaForCausalLM(config).eval(), eos_ids={0},
        context=128,
    )  # fmt: skip
