"""Choosing an engine and starting it."""

import importlib.util
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from reasonrl.errors import UsageError
from reasonrl.models.language_model import ModelTokenizer, load_language_model, load_tokenizer
from reasonrl.sampling.types import Engine
from reasonrl.settings.sampling import SampleSettings

# Settings that mean nothing to an engine; they must be unset.
OF_OTHERS = {
    "hf": ("base_url", "concurrency", "timeout", "retries", "engine_arg"),
    "vllm": ("base_url", "concurrency", "timeout", "retries", "device", "attn", "batch_tokens"),
    "openai": ("device", "attn", "batch_tokens"),
}


def choose(settings: SampleSettings) -> str:
    """hf, vllm or openai. auto: openai where there is a --base-url, vllm where it is installed and there is a GPU.

    Raises UsageError where flags do not go with the engine, or it is not installed.
    """
    engine: str = settings.backend
    if engine == "auto":
        engine = "openai" if settings.base_url else "vllm" if has_vllm() and has_gpu() else "hf"
    for name in OF_OTHERS[engine]:
        if getattr(settings, name):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} means nothing to the {engine} engine (--backend says which engine draws)")
    if engine == "openai" and not settings.base_url:
        raise UsageError("--backend openai: name the server with --base-url http://HOST:PORT/v1")
    if engine == "vllm" and not has_vllm():
        raise UsageError("--backend vllm: pip install 'reasonrl[vllm]' (without a GPU: see docs/engines.md)")
    return engine


def has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def start(settings: SampleSettings, seed: int = 0) -> tuple[ModelTokenizer, Engine]:
    """The model (with weights for the hf engine alone) and its engine. seed: for engines that draw with their own."""
    arguments, engine = parse_arguments(settings.engine_arg), choose(settings)
    if engine == "hf":
        from reasonrl.sampling.hf.engine import HFEngine

        policy = load_language_model(settings.model, device=settings.device, dtype=settings.dtype, attn=settings.attn)
        return policy, HFEngine(policy, settings.batch_tokens)
    known = load_tokenizer(settings.model)
    if engine == "vllm":
        from reasonrl.sampling.vllm import VLLMEngine

        return known, VLLMEngine(known, settings.dtype, seed, arguments)
    from reasonrl.sampling.openai import OpenAIEngine

    numbers = {name: getattr(settings, name) for name in ("concurrency", "timeout", "retries")}
    numbers = {name: value for name, value in numbers.items() if value is not None}
    assert settings.base_url is not None  # `choose` has seen to it
    return known, OpenAIEngine(known, settings.base_url, extra=arguments, **numbers)


def parse_arguments(given: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` each → a dictionary. A value that is JSON (a number, true, {…}) is read as such, else as text."""
    arguments: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"--engine-arg {text}: want KEY=VALUE, for example max_model_len=2048")
        with suppress(ValueError):
            value = json.loads({"True": "true", "False": "false", "None": "null"}.get(value, value))
        arguments[name.lstrip("-").replace("-", "_")] = value
    return arguments
