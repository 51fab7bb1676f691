"""Loading a causal language model, its tokenizer, and what reasonrl needs to know of them."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from reasonrl.errors import ReasonRLError, RecordError, UsageError
from reasonrl.models import checkpoint

logging.set_verbosity_error()
getLogger("huggingface_hub").setLevel(ERROR)  # it logs every retry; the one line of the error is enough
logging.disable_progress_bar()

BUNDLED = {name: str(Path(__file__).parent / name) for name in ("tiny", "tiny-orm")}


@dataclass(kw_only=True)
class ModelTokenizer:
    """A model's tokenizer, and what else is known of the model without its weights.

    eos_ids: the tokens that end a completion. context: the most tokens that it reads, prompt and completion together.
    """

    name: str
    directory: str
    tokenizer: PreTrainedTokenizerBase
    eos_ids: set[int] = field(default_factory=set)
    context: int = 1 << 30

    @property
    def eos_id(self) -> int:
        """The token that training puts at the end of a completion."""
        return self.tokenizer.eos_token_id if self.tokenizer.eos_token_id is not None else min(self.eos_ids)

    @cached_property
    def _texts(self) -> list[str]:
        return self.decode([[token] for token in range(len(self.tokenizer))])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself: none for special tokens, and for ids that the tokenizer does not know.

        A model whose output layer is padded can draw those."""
        texts = self._texts
        return [texts[token] if token < len(texts) else "" for token in ids]

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt, with exactly one BOS if the tokenizer's own habit is to put one."""
        bos = self.tokenizer.bos_token_id
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        wants_bos = bos is not None and self.tokenizer("a").input_ids[:1] == [bos]
        return [bos, *ids] if wants_bos and ids[:1] != [bos] else ids

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of a completion, tokenised apart from its prompt, EOS not included."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Texts of completions, special tokens left out."""
        if not ids:  # which would be taken for one text
            return []
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def check_fits(self, name: str, prompt_ids: list[int]) -> None:
        """Raises RecordError if a prompt leaves no room for a single new token."""
        if len(prompt_ids) >= self.context:
            raise RecordError(
                f"{name}: a prompt of {len(prompt_ids)} tokens does not fit the model's context of {self.context}; "
                "use fewer --shots or leave the problem out"
            )

    @property
    def tokenizer_hash(self) -> str:
        """12 hex digits that are equal for two tokenizers exactly if they cut text into the same ids."""
        spec = json.loads(self.tokenizer.backend_tokenizer.to_str())
        what = {part: spec.get(part) for part in ("added_tokens", "normalizer", "pre_tokenizer", "model", "decoder")}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(kw_only=True)
class LanguageModel(ModelTokenizer):
    """A causal language model of transformers, such as a policy, with its tokenizer."""

    model: PreTrainedModel


def locate(name: str) -> str:
    """A bundled model, a directory, a `.gguf` file or a hub id → what transformers can load."""
    if name in BUNDLED:
        return BUNDLED[name]
    if name.endswith(".gguf"):
        from reasonrl.models import gguf

        return gguf.converted(name)
    if os.path.isdir(name):
        checkpoint.refuse_partial(name)
        if not any(Path(name, file).exists() for file in ("config.json", "adapter_config.json")):
            raise UsageError(f"{name}: no config.json in it; is it a model directory?")
        return name
    if os.path.exists(name) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UsageError(f"{name}: no such model; give a directory, a .gguf file, a hub id, or tiny")
    return name


def is_adapter(directory: str) -> bool:
    return Path(directory, "adapter_config.json").exists()


def base_of(directory: str) -> str:
    """The base model of an adapter directory; any other model is its own base."""
    if not is_adapter(directory):
        return directory
    base = json.loads(Path(directory, "adapter_config.json").read_text())["base_model_name_or_path"]
    try:
        return locate(base)
    except UsageError as error:
        raise UsageError(f"{directory} is an adapter, and its base cannot be loaded: {error}") from None


def load_tokenizer(name: str) -> ModelTokenizer:
    """What is known of a model without its weights. Raises UsageError where there is no such model."""
    directory = locate(name)
    try:
        base = base_of(directory)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        config = AutoConfig.from_pretrained(base).get_text_config()
    except ReasonRLError:
        raise
    except Exception as error:
        raise no_such_model(name, error) from None
    if tokenizer.eos_token_id is None:
        raise UsageError(f"{name}: the tokenizer has no EOS token, so a completion could never end")
    try:
        ends = GenerationConfig.from_pretrained(base).eos_token_id
    except OSError:  # no such file: the config says it
        ends = getattr(config, "eos_token_id", None)
    known = ModelTokenizer(name=name, directory=directory, tokenizer=tokenizer, eos_ids={tokenizer.eos_token_id})
    known.eos_ids |= set(ends if isinstance(ends, list) else [ends]) - {None}
    known.context = getattr(config, "max_position_embeddings", None) or known.context
    if getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None):
        known.context = min(known.context, config.sliding_window)  # as far as all positions see each other
    return known


def load_language_model(
    name: str, *, device: str | None = None, dtype: str = "auto", attn: str | None = None
) -> LanguageModel:
    """A language model with its weights, in evaluation mode, on `device` (default: the best there is).

    A PEFT adapter directory is loaded onto its base and merged.
    """
    known = load_tokenizer(name)
    load = _load_adapter if is_adapter(known.directory) else AutoModelForCausalLM.from_pretrained
    return LanguageModel(**vars(known), model=load_weights(known, load, device, dtype, attn))


def load_weights(
    known: ModelTokenizer, load: Callable[..., PreTrainedModel], device: str | None, dtype: str, attn: str | None
) -> PreTrainedModel:
    """The model in evaluation mode. `load` loads it from a directory, with transformers' options.

    Raises ReasonRLError where it cannot."""
    # "cuda" before the processes of `accelerate launch` have been given their GPUs would be the first one for all.
    where = (
        best_device() if device is None or (device == "cuda" and torch.cuda.is_available()) else torch.device(device)
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: Any = load(known.directory, dtype=torch_dtype(dtype, where), attn_implementation=attn or "sdpa")
    except Exception as error:
        raise no_such_model(known.name, error) from None
    return model.to(where).eval()  # Any: transformers' annotation of `to` takes no device


def _load_adapter(directory: str, **options: Any) -> PreTrainedModel:
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base_of(directory), **options)
    return PeftModel.from_pretrained(model, directory).merge_and_unload()


@torch.no_grad()
def check_output_layer(policy: LanguageModel) -> None:
    """Raises UsageError for a model that does something to its logits after the output layer (Granite scales them,
    Gemma bounds them). Trainers compute the logits that they need, and no others, from that layer."""
    model, ids = policy.model, torch.tensor([[policy.eos_id] * 2], device=policy.model.device)
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    logits = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(model.get_output_embeddings()(hidden), logits, rtol=1e-3, atol=1e-3):
        kind = model.config.model_type
        raise UsageError(
            f"{policy.name}: models of type {kind} change the output layer's logits, which cannot be trained here"
        )


def no_such_model(name: str, error: Exception) -> ReasonRLError:
    """A loader's complaint in one line."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if "/" in name or not os.path.exists(name):
        reason = f"{reason[:160]} (offline, give a directory)" if not os.path.isdir(name) else reason
    return ReasonRLError(f"cannot load model {name}: {reason}")


def best_device() -> torch.device:
    if torch.cuda.is_available():  # `accelerate launch` numbers the processes of a machine: each has a GPU of its own
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def has_bf16() -> bool:
    """Whether the GPU calculates in bf16. Older ones (T4, V100) only emulate it, slower than fp32."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def torch_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto: bf16 on a GPU that has it, else fp32."""
    if name == "auto":
        name = "bf16" if device.type == "cuda" and has_bf16() else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
