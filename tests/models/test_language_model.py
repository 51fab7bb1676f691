"""Models that are made in one place and loaded in another: adapters and their bases, converted `.gguf` files."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from reasonrl.errors import UsageError
from reasonrl.models import adapters, gguf
from reasonrl.models.language_model import BUNDLED, load_language_model, load_tokenizer
from reasonrl.models.reward_model import load_reward_model, new_reward_model
from reasonrl.planning import shapes
from reasonrl.sampling.hf.engine import HFEngine
from reasonrl.sampling.types import Request, Sampling


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A model's directory as a user types it: from the directory in which it is."""
    shutil.copytree(BUNDLED["tiny"], tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    return "base"


def test_a_base_whose_generation_configuration_cannot_be_saved_again_can_be_trained(base, tmp_path):
    """vicuna's and Llama-2-chat's have a temperature for greedy decoding, which is loaded and not saved."""
    (tmp_path / "base" / "generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6, "eos_token_id": 0}')
    policy = load_language_model(base, device="cpu")
    assert policy.model.generation_config.temperature == 0.9
    adapters.save(policy.model, policy, "trained")
    kept = load_language_model("trained", device="cpu").model.generation_config
    assert (kept.temperature, kept.top_p, kept.do_sample) == (0.9, 0.6, True)


def test_a_padding_token_without_an_embedding_is_not_looked_up(base, tmp_path):
    tokenizer = load_tokenizer(base).tokenizer
    tokenizer.add_special_tokens({"pad_token": "<fresh>"})
    tokenizer.save_pretrained(base)
    policy = load_language_model(base, device="cpu")
    assert policy.tokenizer.pad_token_id >= policy.model.get_input_embeddings().num_embeddings
    requests = [
        Request("a", policy.encode_prompt("1 + 1 =")),
        Request("b", policy.encode_prompt("Ann has 3 pens and 4 more.")),
    ]
    assert len(list(HFEngine(policy).sample(requests, Sampling(2, max_tokens=4)))) == 2


def test_an_adapter_is_loaded_from_anywhere(base, tmp_path, monkeypatch):
    policy = load_language_model(base, device="cpu")
    adapters.save(adapters.add_lora(policy.model, 2, 0, "CAUSAL_LM"), policy, "lora")
    reward_model = new_reward_model(base, device="cpu")
    adapters.save(adapters.add_lora(reward_model.model, 2, 0, "TOKEN_CLS"), reward_model, "orm")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert load_language_model("../lora", device="cpu").context == policy.context
    assert load_reward_model("../orm", device="cpu").model.config.num_labels == 1
    assert shapes.of_model("../lora") == shapes.of_model("tiny")
    about = json.loads(Path("../lora/adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == os.path.realpath("../base")
    shutil.move("../base", "../gone")
    with pytest.raises(UsageError, match=r"^\.\./lora is an adapter, and its base cannot be loaded: .*/base: no such"):
        load_tokenizer("../lora")


def test_an_adapter_remembers_a_model_of_a_hub_by_its_id(tmp_path):
    config = SimpleNamespace(base_model_name_or_path="somebody/model")
    saved = SimpleNamespace(save_pretrained=lambda directory: None)
    model = SimpleNamespace(peft_config={"default": config}, save_pretrained=saved.save_pretrained)
    adapters.save(model, SimpleNamespace(directory="somebody/model", tokenizer=saved), tmp_path)
    assert config.base_model_name_or_path == "somebody/model"


@pytest.mark.parametrize("meanwhile", ["from_pretrained", "save_pretrained"])
def test_two_shards_convert_one_file_at_a_time(tmp_path, monkeypatch, meanwhile):
    """The other process begins, and ends, while this one reads the weights or has written the first of its files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    policy = load_language_model("tiny", device="cpu")
    real, others = policy.tokenizer.save_pretrained, []

    def other_process(when):
        if when == meanwhile and not others:
            others.append(None)
            others.append(gguf.converted(str(tmp_path / "model.gguf")))

    def read(*words, **more):
        other_process("from_pretrained")
        return policy.model

    def write(directory):
        other_process("save_pretrained")
        return real(directory)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *words, **more: policy.tokenizer)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", read)
    monkeypatch.setattr(policy.tokenizer, "save_pretrained", write)
    directory = gguf.converted(str(tmp_path / "model.gguf"))
    assert others[1:] == [directory] and os.listdir(tmp_path / "cache" / "reasonrl" / "gguf") == [Path(directory).name]
    monkeypatch.undo()
    again = load_language_model(directory, device="cpu")
    assert torch.equal(again.model.get_input_embeddings().weight, policy.model.get_input_embeddings().weight)
