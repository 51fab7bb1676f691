"""The arithmetic of `reasonrl plan`: parameters, bytes and seconds by hand, and those of the bundled model and data."""

from itertools import islice

import pytest

from reasonrl.planning import devices, shapes, world
from reasonrl.planning.devices import Draw, PlannedEngine
from reasonrl.planning.world import LENGTHS, PROBLEMS


def test_parameters_are_those_of_the_published_models():
    count = lambda name: shapes.of_model(name).parameters
    assert count("meta-llama/Llama-2-7b-hf") == 6_738_415_616
    assert count("meta-llama/Llama-2-13b-hf") == 13_015_864_320
    assert count("HuggingFaceTB/SmolLM2-135M-Instruct") == 134_515_008 == devices.SMOLLM2
    assert count("tiny") == 672_384 == devices.TINY and count("runs/tiny/tiny-small/tiny") == 241_984


def test_parameters_of_a_model_are_counted_as_torch_counts_them():
    from reasonrl.models import adapters
    from reasonrl.models.language_model import load_language_model

    policy, shape = load_language_model("tiny"), shapes.of_model("tiny")
    assert shape.parameters == sum(p.numel() for p in policy.model.parameters())
    adapted = adapters.add_lora(policy.model, 8, 0, "CAUSAL_LM")
    assert shape.adapter_parameters(8) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_key_value_bytes_and_training_memory_by_hand():
    llama, gpu = shapes.of_model("Llama-2-7b"), devices.device("h100")
    assert llama.kv_bytes(2) == 2 * 32 * 4096 * 2
    assert shapes.of_model("smollm2").kv_bytes(4) == 2 * 30 * 3 * 64 * 4
    # 16 bytes a parameter do not fit 80 GB; a LoRA adapter of rank 64 does
    activations = gpu.activation_memory(llama, 4096, True)
    assert gpu.learning_memory(llama, 0) > 80e9 > gpu.learning_memory(llama, 64) + activations


def test_a_gpu_decodes_faster_with_more_rows_and_is_bounded_by_its_memory():
    llama, gpu = shapes.of_model("Llama-2-7b"), devices.device("a100")
    vllm = PlannedEngine(True, 2, 2 * llama.parameters)
    draw = lambda count: Draw(count, prompt=100, tokens=100, longest=256, most=256)
    per_token = lambda count: gpu.generate(llama, draw(count), 1.0, vllm) / count
    assert per_token(1) > 10 * per_token(64) > 10 * per_token(512) / 2
    assert gpu.rows(llama, draw(10**6), vllm) < 0.9 * 80e9 / llama.kv_bytes(2) / 200


def test_the_engine_in_process_keeps_room_for_the_longest_and_waits_for_it():
    smollm2, gpu = shapes.of_model("smollm2"), devices.device("h100")
    engine = PlannedEngine(False, 4, 10e9)  # weights of which 10 GB are on the device
    draw = lambda count, longest=256: Draw(count, prompt=100, tokens=50, longest=longest, most=256)
    rows = int(0.5 * 70e9 / (smollm2.kv_bytes(4) + 16 * 49152 / 64) / 356)
    assert gpu.rows(smollm2, draw(10**6), engine) == rows
    assert gpu.rows(shapes.of_model("tiny"), Draw(10**6, 50, 20, 64, 64), engine) == 65_535
    seconds = lambda *sizes: gpu.generate(smollm2, draw(*sizes), 1.0, engine)
    launching = 256 * 30 * devices.FORWARD_LAUNCH
    assert launching < seconds(rows) < seconds(rows, 300) and 2 * launching < seconds(rows + 1)
    assert seconds(512) == pytest.approx(launching, rel=0.01)  # 512 rows or one: nothing but launches
    full = PlannedEngine(False, 4, 81e9)  # what does not fit takes the time of a device that had room
    assert gpu.rows(smollm2, draw(512), full) == 1 and gpu.generate(smollm2, draw(512), 1.0, full) == seconds(512)


@pytest.mark.parametrize("name, tokens", [("tiny", 8192), ("smollm2", 913), ("Llama-2-7b", 120)])
def test_a_pass_of_training_has_as_many_tokens_as_planned(name, tokens):
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from reasonrl.training.batching import pass_tokens

    shape = shapes.of_model(name)
    sizes = {"num_hidden_layers": shape.layers, "hidden_size": shape.hidden, "vocab_size": 8}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, num_attention_heads=1, intermediate_size=8))
    for device, expected in (("cpu2", tokens), ("h100", 1 << 14)):
        kind = torch.device("cpu" if device == "cpu2" else "cuda")
        assert pass_tokens(model, kind) == devices.device(device).pass_tokens(shape) == expected


def test_lengths_are_those_of_the_bundled_model():
    """Tokens of prompts and references of mini, as the tokenizer of `tiny` counts them."""
    from statistics import mean

    from reasonrl.models.language_model import load_tokenizer
    from reasonrl.prompts import PromptForm
    from reasonrl.tasks import source

    policy, problems = load_tokenizer("tiny"), list(source.task_problems("mini", "test"))
    prompts = mean(len(policy.encode_prompt(PromptForm().render(one["question"]))) for one in problems)
    references = mean(len(policy.encode_completion(one["reference"])) + 1 for one in problems)
    assert LENGTHS["mini", "tiny"] == pytest.approx((prompts, references), rel=0.01)


def test_padding_is_that_of_the_bundled_data():
    """Of updates of 32 in one pass, and sorted and cut in two and in four."""
    from reasonrl.models.language_model import load_tokenizer
    from reasonrl.prompts import PromptForm
    from reasonrl.tasks import source
    from reasonrl.training.batching import Example, microbatches, update_batches

    policy, form = load_tokenizer("tiny"), PromptForm()
    examples = [
        Example(policy.encode_prompt(form.render(one["question"])), [*policy.encode_completion(one["reference"]), 0])
        for one in islice(source.task_problems("mini", "train"), 3200)
    ]
    for parts in (1, 2, 4):
        passed = 0
        for rows in update_batches(len(examples), 32, 1, 0):
            update = sorted((examples[row] for row in rows), key=len, reverse=True)
            for first in range(0, 32, 32 // parts):
                (batch,) = microbatches(update[first : first + 32 // parts], 1 << 20)
                passed += batch.input_ids.numel()
        assert passed / sum(map(len, examples)) == pytest.approx(
            world.padding("mini", shapes.of_model("tiny"), parts), rel=0.04
        )


def test_problems_are_counted_as_the_tasks_have_them(data):
    from reasonrl.tasks import source

    for task, (train, test) in PROBLEMS.items():
        for split, count in (("train", train), ("test", test)):
            assert sum(1 for _ in source.task_problems(task, split, None if task == "mini" else str(data))) == count
