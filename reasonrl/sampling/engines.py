"""Choosing an engine and starting it."""

import importlib.util
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from reasonrl.errors import UsageError
from reasonrl.models.policy import Policy, load_policy, load_tokenizer
from reasonrl.sampling import Engine


@dataclass(frozen=True)
class Setup:
    """How to run an engine; none of it changes what is drawn. A field that an engine does not have must be unset."""

    backend: str = "auto"
    device: str | None = None
    dtype: str = "auto"
    attn: str | None = None
    batch_tokens: int | None = None
    base_url: str | None = None
    concurrency: int | None = None
    timeout: float | None = None
    retries: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def chosen(self) -> str:
        """hf, vllm or openai. auto: openai where there is a `base_url`, vllm where it is installed and there is a GPU.

        Raises UsageError where flags do not go with the engine, or it is not installed.
        """
        engine = self.backend
        if engine == "auto":
            engine = "openai" if self.base_url else "vllm" if has_vllm() and has_gpu() else "hf"
        of_others = {
            "hf": ("base_url", "concurrency", "timeout", "retries", "arguments"),
            "vllm": ("base_url", "concurrency", "timeout", "retries", "device", "attn", "batch_tokens"),
            "openai": ("device", "attn", "batch_tokens"),
        }
        for name in of_others[engine]:
            if getattr(self, name):
                flag = "engine-arg" if name == "arguments" else name.replace("_", "-")
                raise UsageError(f"--{flag} means nothing to the {engine} engine (--backend says which engine draws)")
        if engine == "openai" and not self.base_url:
            raise UsageError("--backend openai: name the server with --base-url http://HOST:PORT/v1")
        if engine == "vllm" and not has_vllm():
            raise UsageError("--backend vllm: pip install 'reasonrl[vllm]' (without a GPU: see docs/engines.md)")
        return engine


def has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def start(model: str, setup: Setup, seed: int = 0) -> tuple[Policy, Engine]:
    """The policy (with weights for the hf engine alone) and its engine. seed: for engines that draw with their own."""
    engine = setup.chosen()
    if engine == "hf":
        from reasonrl.sampling.hf import HFEngine

        policy = load_policy(model, device=setup.device, dtype=setup.dtype, attn=setup.attn)
        return policy, HFEngine(policy, setup.batch_tokens)
    policy = load_tokenizer(model)
    if engine == "vllm":
        from reasonrl.sampling.vllm import VLLMEngine

        return policy, VLLMEngine(policy, setup.dtype, seed, setup.arguments)
    from reasonrl.sampling.openai import OpenAIEngine

    given = {name: getattr(setup, name) for name in ("concurrency", "timeout", "retries")}
    given = {name: value for name, value in given.items() if value is not None}
    return policy, OpenAIEngine(policy, setup.base_url, extra=setup.arguments, **given)


def parse_arguments(given: list[str]) -> dict[str, Any]:
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
