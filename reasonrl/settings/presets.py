"""Presets: values that depend on how large the model is. They stand in presets.toml, by stage."""

import tomllib
from functools import cache
from importlib import resources
from typing import Any

NAMES = ("paper", "tiny")


@cache
def _all() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(resources.files(__package__).joinpath("presets.toml").read_text(encoding="utf-8"))


def of_stage(stage: str) -> dict[str, dict[str, Any]]:
    """Preset → its settings and values; {} for a stage without presets."""
    return _all().get(stage, {})
