"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685): putting one on a model, and saving it so that it loads again."""

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from reasonrl.models.language_model import ModelTokenizer, is_adapter


def add_lora(
    model: PreTrainedModel, rank: int, seed: int, task_type: str | None = None, last: int | None = None
) -> Any:
    """A model of transformers with a fresh adapter on every linear layer of its trunk, which alone learns. PEFT lets
    the head of a token classifier learn whole. What PEFT puts around the model passes on all that it does not have
    itself: it stands where the model stood.

    last: adapt the last so many transformer blocks only. Nothing flows back through those below, which saves their
    share of the backward pass, two thirds of an update's work.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    trunk: Any = model.base_model
    layers = {name.rpartition(".")[2] for name, layer in trunk.named_modules() if isinstance(layer, nn.Linear)}
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=sorted(layers), task_type=task_type)
    if last is not None:
        blocks = trunk.config.get_text_config().num_hidden_layers
        config.layers_to_transform = list(range(max(0, blocks - last), blocks))
    return get_peft_model(model, config)


def save(model: Any, start: ModelTokenizer, directory: str | Path, *, goes_on: bool = False) -> None:
    """Saves the trained weights, and the tokenizer of the model that training started from, into `directory`. model:
    of transformers, or what PEFT put around one.

    An adapter trained on a merged adapter is merged too: its base exists nowhere else. `goes_on`: training does, so it
    is a copy that is merged.

    An adapter remembers where its base is: a directory by its absolute path, since it is loaded from anywhere; a model
    of a hub by its id."""
    if hasattr(model, "merge_and_unload") and is_adapter(start.directory):
        model = (copy.deepcopy(model) if goes_on else model).merge_and_unload()
    for config in getattr(model, "peft_config", {}).values():
        base = config.base_model_name_or_path
        if base and os.path.isdir(base):
            config.base_model_name_or_path = os.path.realpath(base)
    _mend(getattr(model, "generation_config", None))
    model.save_pretrained(directory)
    start.tokenizer.save_pretrained(directory)


def _mend(generation: GenerationConfig | None) -> None:
    """transformers loads a generation configuration with a temperature for greedy decoding (Llama-2-chat's, Vicuna's),
    and refuses to save it again: at the end of a run, before the weights are written."""
    try:
        if generation is not None:
            generation.validate(strict=True)
    except ValueError:
        assert generation is not None  # None has nothing to validate
        generation.do_sample = True
