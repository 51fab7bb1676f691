"""How a setting is declared, and what a stage's settings are made of."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from reasonrl.errors import UsageError
from reasonrl.settings import presets

Role = Literal["computes", "reads", "manner"]
"""What a setting does to a run. computes: it changes the result. reads: it names an input, which is hashed as well. A
run that is resumed must have both as they were. manner: it says how the run is carried out, and may change."""

PRESET: Any = object()
"""The default of a setting whose value stands in presets.toml."""


@dataclass(frozen=True)
class Setting:
    """All there is to know of a setting but its type and default, which its field has.

    flags: ("--k", "-k"); none for a positional argument. shown: what help calls the default, where its value says too
    little. low, high: bounds, inclusive. env: a variable of its own, beside REASONRL_STAGE_NAME.
    """

    help: str
    group: str
    flags: tuple[str, ...]
    metavar: str | None
    shown: str | None
    low: float | None
    high: float | None
    role: Role
    env: str | None


def setting(
    default: Any,
    help: str,
    group: str,
    *flags: str,
    metavar: str | None = None,
    shown: str | None = None,
    bounds: tuple[float | None, float | None] = (None, None),
    role: Role = "computes",
    env: str | None = None,
) -> Any:
    """A field of a StageSettings. flags: "" stands for the flag that the field's name gives. `default` may be `...`,
    for an argument that must be given."""
    declared = Setting(help, group, flags or ("",), metavar, shown, *bounds, role, env)
    if default is ...:
        return dataclasses.field(metadata={"setting": declared})
    return dataclasses.field(default=default, metadata={"setting": declared})


def argument(default: Any, help: str, metavar: str, *, role: Role = "reads") -> Any:
    """A positional argument."""
    return setting(default, help, "Arguments", "ARGUMENT", metavar=metavar, role=role)


GROUPS = (
    "Problems", "Records", "Model", "Sampling", "Rollouts", "Labels", "Reward", "Loss", "Critic", "Selection",
    "Metrics", "Optimiser", "Engine", "Machine", "Checkpoints", "Output",
)  # fmt: skip
"""In the order in which help lists them."""


@dataclass(frozen=True)
class Declared:
    """A setting with what its field says of it: name, type, default."""

    name: str
    kind: Any
    default: Any
    about: Setting

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags, the long one first; none for an argument."""
        if self.is_argument:
            return ()
        return tuple(flag or f"--{self.name.replace('_', '-')}" for flag in self.about.flags)

    @property
    def is_argument(self) -> bool:
        return self.about.flags == ("ARGUMENT",)

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def _without_none(self) -> Any:
        if isinstance(self.kind, UnionType):
            return next(kind for kind in get_args(self.kind) if kind is not type(None))
        return self.kind

    @property
    def is_list(self) -> bool:
        return get_origin(self._without_none) is tuple

    @property
    def plain_kind(self) -> Any:
        """The type of one value, without None: int, float, str, bool or a Literal."""
        return get_args(self._without_none)[0] if self.is_list else self._without_none

    @property
    def choices(self) -> tuple[str, ...]:
        return get_args(self.plain_kind) if get_origin(self.plain_kind) is Literal else ()

    @property
    def metavar(self) -> str:
        """What help calls a value; "" for a switch."""
        if self.choices:
            return f"{{{','.join(self.choices)}}}"
        if self.plain_kind is bool:
            return ""
        return self.about.metavar or {int: "N", float: "X"}.get(self.plain_kind, "TEXT")

    def shown_default(self, stage: str) -> str:
        """What help says of the default; "" where there is nothing to say."""
        if self.about.shown is not None or self.is_required:
            return self.about.shown or ""
        if self.default is PRESET:
            by_preset = {name: _spelled(values[self.name]) for name, values in presets.of_stage(stage).items()}
            if len(set(by_preset.values())) == 1:
                return next(iter(by_preset.values()))
            return ", ".join(f"{name} {value}" for name, value in by_preset.items())
        if self.default is None or self.plain_kind is bool or self.default in ("", ()):
            return ""
        return " ".join(self.default) if self.is_list else _spelled(self.default)

    def shown_bounds(self) -> str:
        low, high = self.about.low, self.about.high
        if low is None:
            return ""
        return f"{low:g} or more" if high is None else f"{low:g} to {high:g}"

    def check(self, value: Any) -> None:
        """Raises UsageError for a value that is out of bounds."""
        low, high = self.about.low, self.about.high
        if value is None or not isinstance(value, int | float):
            return
        if math.isnan(value) or (low is not None and value < low) or (high is not None and value > high):
            raise UsageError(f"{self.flags[0]} {value}: want {self.shown_bounds() or 'a number'}")


def _spelled(value: Any) -> str:
    """A value as a person would write it: 3e-6 and not 3e-06."""
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """The settings of one stage; every field but `origins` is a `setting`.

    origins: where a value that is no default came from: "preset tiny", "FILE.toml", "environment" or "command line".
    """

    STAGE: ClassVar[str]
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for one in declared(type(self)).values():
            one.check(getattr(self, one.name))

    def values(self) -> dict[str, Any]:
        """Every setting by name."""
        return {name: getattr(self, name) for name in declared(type(self))}


Function = TypeVar("Function", bound=Callable[..., Any])


def cached(function: Function) -> Function:
    """`functools.cache`, but the result has the function's own type: mypy does not take a class for hashable."""
    return cast(Function, cache(function))


@cached
def declared(stage: type[StageSettings]) -> dict[str, Declared]:
    """The settings of a stage by name, in the order of their declaration."""
    kinds = get_type_hints(stage)
    return {
        field.name: Declared(field.name, kinds[field.name], field.default, field.metadata["setting"])
        for field in dataclasses.fields(stage)
        if "setting" in field.metadata
    }
