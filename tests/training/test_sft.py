"""Fine-tuning: what is learned from a record, and that neither batching, processes nor interruptions change it."""

import json
import math
import os
import random
import subprocess
import sys

import pytest
import torch
from conftest import command
from hypothesis import given
from hypothesis import strategies as st

from reasonrl.errors import RecordError
from reasonrl.io.provenance import Run
from reasonrl.models.checkpoint import Checkpoint
from reasonrl.models.language_model import load_language_model
from reasonrl.prompts import PromptForm
from reasonrl.settings import SftSettings
from reasonrl.tasks import mini
from reasonrl.training import batching
from reasonrl.training.batching import Example, collate, microbatches, share, update_batches
from reasonrl.training.loop import Loop, cosine, make_accelerator
from reasonrl.training.losses import TokenLogprobs
from reasonrl.training.sft import to_example

FORM = PromptForm()


@pytest.fixture(scope="module")
def policy():
    return load_language_model("tiny", device="cpu", dtype="fp32")


def reasonrl(*words, check=True, **more):
    done = subprocess.run(command(*words), capture_output=True, text=True, **more)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def problems_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    reasonrl("data", "mini", "--limit", 200, "-o", path)
    return path


def metrics(checkpoint):
    lines = [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines]


def weights(checkpoint):
    from safetensors.torch import load_file

    return load_file(checkpoint / "model.safetensors")


# What a record teaches


def sample_record(policy, text, finish, ids=None, **more):
    ids = ids if ids is not None else policy.encode_completion(text)
    return {"id": "x/0", "question": "How many?", "completion": text, "completion_ids": ids, "finish": finish,
            "tokenizer": policy.tokenizer_hash} | more  # fmt: skip


def loss_ids(policy, record):
    return to_example(record, policy, FORM, policy.tokenizer_hash).completion_ids


def test_eos_ends_what_stopped_and_nothing_that_ran_out(policy):
    ids = policy.encode_completion("So 2 + 2 = 4.\n#### 4")
    text, eos = "So 2 + 2 = 4.\n#### 4", policy.eos_id
    assert loss_ids(policy, sample_record(policy, text, "eos", [*ids, eos])) == [*ids, eos]
    assert loss_ids(policy, sample_record(policy, text, "stop")) == [*ids, eos]
    assert loss_ids(policy, sample_record(policy, text, "length")) == ids
    assert loss_ids(policy, {"question": "How many?", "reference": text}) == [*ids, eos]


def test_own_ids_are_learned_as_they_were_drawn(policy):
    odd = [i for c in "left" for i in policy.encode_completion(c)]  # not how the tokenizer would spell it
    text = policy.decode([odd])[0]
    assert policy.encode_completion(text) != odd
    assert loss_ids(policy, sample_record(policy, text, "length", odd)) == odd
    elsewhere = sample_record(policy, text, "length", odd, tokenizer="another")
    assert loss_ids(policy, elsewhere) == policy.encode_completion(text)


@pytest.mark.parametrize("finish", ["eos", "length", "stop"])
def test_an_edited_text_is_learned_as_it_stands(policy, finish):
    ids, edited = policy.encode_completion("So 2 + 2 = 5.\n#### 5"), "So 2 + 2 = 4.\n#### 4"
    end = [policy.eos_id] * (finish != "length")
    record = sample_record(policy, edited, finish, ids + end * (finish == "eos"))
    assert loss_ids(policy, record) == policy.encode_completion(edited) + end


def test_a_character_cut_at_the_last_token_is_learned_as_it_was_drawn(policy):
    ids = policy.encode_completion("7 é")[:-1]
    text = policy.decode([ids])[0]
    assert text.endswith("\ufffd") and policy.encode_completion(text) != ids
    assert loss_ids(policy, sample_record(policy, text, "length", ids)) == ids


def test_the_stop_string_is_not_learned(policy):
    ids = policy.encode_completion("#### 4\n\nQuestion:")
    record = sample_record(policy, "#### 4\n", "stop", ids)
    assert policy.decode([loss_ids(policy, record)])[0] == "#### 4\n"
    inside = sample_record(policy, "###", "stop", ids)  # the cut falls inside a token: tokenised anew
    assert policy.decode([loss_ids(policy, inside)])[0] == "###"


def test_prompt_and_completion_are_tokenised_apart(policy):
    example = to_example({"question": "Why?", "reference": "\n\n7"}, policy, FORM, "")
    assert example.prompt_ids == policy.encode_prompt("Question: Why?\nAnswer:\n")
    assert policy.decode([example.completion_ids])[0] == "\n\n7"


def test_nothing_to_learn_is_an_error(policy):
    with pytest.raises(RecordError, match="nothing to learn"):
        to_example({"question": "Why?", "reference": None}, policy, FORM, "")


def test_mask_is_by_length_even_where_tokens_look_like_padding():
    batch = collate([Example([5, 0, 0], [0, 7, 0]), Example([5], [0])])
    assert batch.targets.tolist() == [0, 7, 0, 0]
    assert batch.loss_mask.tolist() == [[False, False, True, True, True, False], [True] + [False] * 5]


# Batching


@given(st.integers(1, 300), st.integers(1, 70), st.floats(0, 3), st.integers(0, 9))
def test_every_epoch_sees_every_example_once(count, size, epochs, seed):
    plan = update_batches(count, size, epochs, seed)
    seen = [index for batch in plan for index in batch]
    assert len(seen) == int(epochs) * count + round(count * (epochs - int(epochs)))
    for epoch in range(int(epochs)):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert all(0 < len(batch) <= size for batch in plan)
    assert plan == update_batches(count, size, epochs, seed)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=40),
    st.integers(1, 200),
    st.integers(1, 4),
)
def test_ranks_and_microbatches_lose_nothing(sizes, max_tokens, world):
    examples = [Example([number] * p, [1] * c) for number, (p, c) in enumerate(sizes)]
    parts = [part for rank in range(world) for part in microbatches(share(examples, rank, world), max_tokens)]
    assert sum(len(part.targets) for part in parts) == sum(c for _, c in sizes)
    assert all(part.input_ids.numel() <= max(max_tokens, part.input_ids.shape[1]) for part in parts)


def test_cosine_schedule_at_worked_points():
    rates = [cosine(update, 100, 10, 0.01) for update in (0, 9, 10, 55, 100)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.505, 0.01])


# The loss


def some_examples(policy, n=8):
    problems = [problem for problem, _ in zip(mini.problems("test"), range(n), strict=False)]
    return [to_example(problem, policy, FORM, policy.tokenizer_hash) for problem in problems]


def naive_loss(policy, examples):
    """− mean log-probability of completion tokens, one sequence at a time, from the model's full logits."""
    total = count = 0
    for example in examples:
        ids = torch.tensor([example.prompt_ids + example.completion_ids])
        logprobs = policy.model(ids).logits[0].log_softmax(-1)
        for place in range(len(example.prompt_ids), len(example)):
            total -= logprobs[place - 1, ids[0, place]].item()
            count += 1
    return total / count


@torch.no_grad()
def test_loss_is_the_naive_loss_whatever_the_microbatches_and_their_padding(policy, monkeypatch):
    monkeypatch.setattr(batching, "PAD", 3)
    examples = some_examples(policy)
    count = sum(len(example.completion_ids) for example in examples)
    logprobs = TokenLogprobs(policy.model)
    for max_tokens in (1, 300, 10_000):
        parts = microbatches(examples, max_tokens)
        loss = -sum(logprobs(p.input_ids, p.loss_mask, p.targets).sum().item() for p in parts) / count
        assert loss == pytest.approx(naive_loss(policy, examples), abs=1e-5)


def test_gradients_do_not_depend_on_microbatches_or_on_chunks_of_the_vocabulary(policy, monkeypatch):
    examples = some_examples(policy)
    logprobs = TokenLogprobs(policy.model)

    def gradient(max_tokens):
        policy.model.zero_grad()
        for part in microbatches(examples, max_tokens):
            (-logprobs(part.input_ids, part.loss_mask, part.targets).sum() / 100).backward()
        return torch.cat([p.grad.flatten() for p in policy.model.parameters()])

    whole = gradient(10_000)
    assert torch.allclose(gradient(1), whole, atol=1e-5)
    monkeypatch.setattr("reasonrl.training.losses.LOGITS", 4000)
    assert torch.allclose(gradient(10_000), whole, atol=1e-5)
    policy.model.zero_grad()


# The stage


def test_a_short_sft_lowers_the_held_out_loss(policy, tmp_path):
    reasonrl("data", "mini", "--limit", 600, "-o", tmp_path / "train.jsonl")
    reasonrl("sft", tmp_path / "train.jsonl", "--epochs", 2, "-o", tmp_path / "out", "-q")
    held_out = some_examples(policy, 60)
    with torch.no_grad():
        assert naive_loss(load_language_model(str(tmp_path / "out")), held_out) < naive_loss(policy, held_out) - 0.01


def test_checkpoint_loads_in_plain_transformers_and_remembers(tmp_path, problems_file):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    done = reasonrl("sft", problems_file, "--limit", 64, "--epochs", 1, "-o", out, "--prompt", "plain", "--stop", "END")
    assert done.stdout == f"{out}\n"
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer("Question: 1 + 1?\nAnswer:\n", return_tensors="pt").input_ids
    assert (
        AutoModelForCausalLM.from_pretrained(out).generate(ids, max_new_tokens=4, do_sample=False).shape[1]
        > ids.shape[1]
    )
    about = json.loads((out / "reasonrl.json").read_text())
    assert about["prompt"]["stop"] == ["END"] and about["arguments"]["limit"] == 64 and about["updates"] == 2
    assert not (tmp_path / "out.partial").exists()
    again = reasonrl(
        "sft", problems_file, "--limit", 64, "--epochs", 1, "-o", out, "--prompt", "plain", "--stop", "END", "--resume"
    )
    assert again.stdout == f"{out}\n"
    assert reasonrl("sft", problems_file, "-o", out, check=False).returncode == 2
    assert reasonrl("sft", problems_file, "--limit", 32, "-o", out, "--resume", check=False).returncode == 2


def test_resumed_equals_uninterrupted(tmp_path, problems_file, killed_at):
    line = ("sft", problems_file, "--epochs", 4, "--save-every", 3, "-q")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    reasonrl(*line, "-o", tmp_path / "whole", env=environment)
    killed = tmp_path / "killed"
    killed_at(f"reasonrl {' '.join(map(str, line))} -o killed", "killed.partial/metrics.jsonl", 8)
    assert not killed.exists() and (tmp_path / "killed.partial" / "state").exists()
    reasonrl(*line, "-o", "killed", "--resume", env=environment, cwd=tmp_path)
    assert metrics(killed) == metrics(tmp_path / "whole")
    one, other = weights(killed), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_two_processes_give_the_single_process_loss(tmp_path, problems_file):
    line = ("sft", problems_file, "--epochs", 2, "--batch-size", 33, "--device", "cpu", "-q")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    reasonrl(*line, "-o", tmp_path / "one", env=environment)
    # Without a GPU `--multi_gpu` still means several processes; `--cpu` would start one (accelerate 1.15).
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launch = [sys.executable, "-m", "accelerate.commands.launch", *options.split(), "-m", "reasonrl"]
    done = subprocess.run(
        [*launch, *map(str, line), "-o", str(tmp_path / "two")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'two'}\n"
    assert json.loads((tmp_path / "two" / "reasonrl.json").read_text())["processes"] == 2
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-4)
        assert one["completion_tokens"] == two["completion_tokens"]


@pytest.mark.slow
def test_lora_adapter_trains_saves_and_samples(tmp_path, problems_file):
    out = tmp_path / "adapter"
    reasonrl("sft", problems_file, "--lora-rank", 4, "--epochs", 1, "--lr", "5e-3", "-o", out)
    assert (out / "adapter_config.json").exists() and not (out / "model.safetensors").exists()
    losses = [m["loss"] for m in metrics(out)]
    assert all(map(math.isfinite, losses))
    sampled = reasonrl("sample", "--model", out, "--limit", 3, "--task", "mini").stdout.splitlines()
    plain = reasonrl("sample", "--limit", 3, "--task", "mini").stdout.splitlines()
    assert len(sampled) == 3
    assert [json.loads(s)["logprob"] for s in sampled] != [json.loads(s)["logprob"] for s in plain]


# Refusals


def test_trainers_refuse_what_is_not_whole(tmp_path, problems_file):
    def refused(file, code):
        done = reasonrl("sft", file, "-o", tmp_path / "out", check=False)
        assert done.returncode == code and done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return done.stderr

    partial = tmp_path / "x.jsonl.partial"
    partial.write_bytes(problems_file.read_bytes())
    assert "work in progress" in refused(partial, 2)
    unfinished = tmp_path / "y.jsonl"
    unfinished.write_bytes(problems_file.read_bytes())
    (tmp_path / "y.jsonl.meta.json").write_text('{"finished": false}')
    assert "has not finished" in refused(unfinished, 2)
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"")
    assert "empty" in refused(empty, 1)
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(problems_file.read_bytes()[:-20])
    assert "torn.jsonl:200" in refused(torn, 1)
    torn.write_bytes(problems_file.read_bytes().rstrip(b"\n"))  # still good JSON, and yet the line is not finished
    assert "torn.jsonl:200" in refused(torn, 1)
    poor = tmp_path / "poor.jsonl"
    poor.write_text('{"id": "a", "question": "Why?", "reference": "x"}\n{"id": "b"}\n')
    assert "poor.jsonl:2" in refused(poor, 1)


def test_test_problems_raise_a_warning(tmp_path):
    reasonrl("data", "mini", "--split", "test", "--limit", 8, "-o", tmp_path / "t.jsonl")
    done = reasonrl("sft", tmp_path / "t.jsonl", "--epochs", 1, "-o", tmp_path / "out")
    assert "8 of 8 records come from a test split" in done.stderr


def test_a_hopeless_learning_rate_is_reported(tmp_path, problems_file):
    done = reasonrl(
        "sft", problems_file, "--lr", "1e30", "--max-grad-norm", "1e30", "-o", tmp_path / "out", check=False
    )
    assert done.returncode == 1 and "smaller --lr" in done.stderr
    assert not (tmp_path / "out").exists()


def test_shuffles_differ_by_seed():
    assert update_batches(50, 10, 1, 0) != update_batches(50, 10, 1, 1)
    assert random.Random("0/0").random() != random.Random("0/1").random()


def test_a_max_grad_norm_of_0_clips_nothing(tmp_path):
    def trained(max_grad_norm):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        settings = SftSettings(
            output=str(tmp_path / str(max_grad_norm)), force=True, lr=0.1, final_lr=2e-7, warmup=0,
            max_grad_norm=max_grad_norm, save_every=100, seed=0,
        )  # fmt: skip
        checkpoint = Checkpoint(Run(settings))
        checkpoint.open()
        loop = Loop(make_accelerator("cpu", "fp32"), model, settings, 3, checkpoint)
        for scale in (1.0, 100.0, 1.0):
            metrics = loop.gradient_update(
                [collate([Example([1], [2])])], lambda _, scale=scale: scale * model(torch.ones(3)).sum()
            )
        return model.weight.detach().clone(), metrics["grad_norm"]

    weight, norm = trained(0)
    assert torch.equal(weight, trained(1e9)[0]) and not torch.equal(weight, trained(1)[0])
    assert norm == pytest.approx(2)


def test_weights_that_learn_are_in_fp32_and_frozen_ones_as_set():
    assert SftSettings(dtype="bf16").weights_dtype == SftSettings(dtype="auto").weights_dtype == "fp32"
    assert SftSettings(dtype="bf16", lora_rank=8).weights_dtype == "bf16"
