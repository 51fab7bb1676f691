"""Where the bundled model `tiny` begins: an untrained model directory, and the corpus to train it on.

    python recipes/tiny_init.py OUT_DIR --problems 80000 --slip 0.45 --seed 0

writes OUT_DIR/model/, a small random Llama with a tokenizer made for `mini`, and OUT_DIR/pretrain.jsonl,
problem records whose references slip (see `reasonrl.tasks.mini.imperfect`): a model that learns from
them knows how solutions look and how to calculate, and is right often enough for RL to have a start.
The same arguments give the same bytes.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reasonrl.tasks import mini

CONTEXT = 512
EOS, PAD = "<|eos|>", "<|pad|>"

PIECES = r"[0-9]{1,3}| ?\p{L}+(?: (?=[0-9]))?| ?[^\s\p{L}0-9]+(?:\n+| (?=[0-9]))?|\s+(?=\s)|\s"
"""Numbers stand alone, in groups of three digits at most. Words and signs keep the space before them, and
before a number the one after them too: `3 * 4 = 12 pies.` is `3| * |4| = |12| pies|.`"""


def build_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE that gives any text back exactly; every integer up to 999 is one token."""
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    # The integers come first, and often: all of them are merged before the first word is.
    integers = [str(number) for number in range(1000)] * 1000
    tokenizer.train_from_iterator(integers + texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, seed: int) -> LlamaForCausalLM:
    """0.7 million random parameters where hidden is 128 and layers 2, in a shape that every Llama engine loads."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        initializer_range=0.04,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="Directory to write model/ and pretrain.jsonl to.")
    parser.add_argument("--problems", type=int, default=80_000, help="Records in pretrain.jsonl.")
    parser.add_argument("--slip", type=float, default=0.45, help="Probability that a step picks a wrong operation.")
    parser.add_argument("--vocabulary", type=int, default=2304, help="Most tokens the tokenizer may have.")
    parser.add_argument("--hidden", type=int, default=128, help="Width of the model, a multiple of 8.")
    parser.add_argument("--layers", type=int, default=2, help="Depth of the model.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the weights and of the slips.")
    args = parser.parse_args()

    records = list(islice(mini.imperfect("pretrain", args.slip, args.seed), args.problems))
    args.out.mkdir(parents=True, exist_ok=True)
    with open(args.out / "pretrain.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)

    texts = [f"Question: {record['question']}\nAnswer:\n{record['reference']}" for record in records]
    tokenizer = build_tokenizer(texts, args.vocabulary)
    tokenizer.save_pretrained(args.out / "model")
    build_model(tokenizer, args.hidden, args.layers, args.seed).save_pretrained(args.out / "model")


if __name__ == "__main__":
    main()
