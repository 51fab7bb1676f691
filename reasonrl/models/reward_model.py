"""Reward models: a token classifier with one logit, p(the final answer will be right | question, steps so far).

The paper's outcome reward model (ORM), a verifier in the words of Cobbe et al. 2021.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedConfig, PreTrainedModel

from reasonrl.errors import UsageError
from reasonrl.io import jsonl
from reasonrl.models.language_model import (
    LanguageModel,
    ModelTokenizer,
    base_of,
    check_output_layer,
    is_adapter,
    load_language_model,
    load_tokenizer,
    load_weights,
    locate,
)


@dataclass(kw_only=True)
class RewardModel(ModelTokenizer):
    """The layers of a language model under a head with one logit, and the tokenizer that it reads with. `model` is a
    transformers `…ForTokenClassification` with `num_labels=1`."""

    model: PreTrainedModel


def is_reward_model(directory: str) -> bool:
    """Whether a model directory holds a token classifier (or an adapter that makes one) with one logit."""
    adapter, config = Path(directory, "adapter_config.json"), Path(directory, "config.json")
    if adapter.exists():
        return jsonl.read_json(adapter).get("task_type") == "TOKEN_CLS"
    if not config.exists():
        return False
    about = jsonl.read_json(config)
    kinds = about.get("architectures") or []
    return any(kind.endswith("ForTokenClassification") for kind in kinds) and len(about.get("id2label", "..")) == 1


def load_reward_model(
    name: str, *, device: str | None = None, dtype: str = "fp32", attn: str | None = None
) -> RewardModel:
    """What `reasonrl orm` made, in evaluation mode, on `device` (default: the best there is).

    Raises UsageError for a model that has no such head: its scores would be noise.
    """
    if not is_reward_model(locate(name)):
        raise UsageError(f"{name} is no outcome reward model (a token classifier with one logit); make one with orm")
    known = load_tokenizer(name)
    load = _load_adapter if is_adapter(known.directory) else AutoModelForTokenClassification.from_pretrained
    return RewardModel(**vars(known), model=load_weights(known, load, device, dtype, attn))


def new_reward_model(
    name: str, *, device: str | None = None, dtype: str = "fp32", attn: str | None = None, writes: bool = False
) -> RewardModel:
    """A reward model to be trained: the layers of the language model `name` under a new head. A reward model is taken
    as it is.

    The head starts at zero, so that every probability starts at one half. An adapter is merged into its base. writes:
    it will continue to learn to write solutions, which not every kind of model can here (`check_output_layer`).
    """
    if is_reward_model(locate(name)):
        return load_reward_model(name, device=device, dtype=dtype, attn=attn)
    start = load_language_model(name, device=device, dtype=dtype, attn=attn)
    if writes:
        check_output_layer(start)
    return RewardModel(**vars(start) | {"model": _under_new_head(start, attn)})


def _under_new_head(start: LanguageModel, attn: str | None) -> PreTrainedModel:
    trunk = start.model
    config = copy.deepcopy(trunk.config)
    _one_logit(config)
    try:
        model = AutoModelForTokenClassification.from_config(
            config, dtype=trunk.dtype, attn_implementation=attn or "sdpa"
        )
    except ValueError:
        raise UsageError(f"{start.name}: transformers has no token classifier for {config.model_type} models") from None
    model.base_model.load_state_dict(trunk.base_model.state_dict())
    nn.init.zeros_(head(model).weight)
    nn.init.zeros_(head(model).bias)
    model.config._name_or_path = model.name_or_path = start.directory  # which an adapter remembers as its base
    return model.to(trunk.device).eval()


def head(model: nn.Module) -> nn.Linear:
    """The layer that makes the logit; under an adapter, the copy of it that learns."""
    heads = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == 1 and layer.bias is not None and "lora_" not in name
    ]
    return heads[-1]


def _one_logit(config: PreTrainedConfig) -> None:
    """Dropout before the head is off, as in all training here; transformers' default is 0.1."""
    config.num_labels, config.classifier_dropout = 1, 0.0


def _load_adapter(directory: str, **options: Any) -> PreTrainedModel:
    from peft import PeftModel

    base = base_of(directory)
    config = AutoConfig.from_pretrained(base)
    _one_logit(config)
    model = AutoModelForTokenClassification.from_pretrained(base, config=config, **options)
    return PeftModel.from_pretrained(model, directory).merge_and_unload()
