"""From what was given to a stage's settings: default < preset < `--config` < environment < command line."""

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonrl.errors import UsageError
from reasonrl.settings import presets
from reasonrl.settings.declare import PRESET, Declared, StageSettings, declared


@dataclass(frozen=True)
class Given:
    """A value that is no default, and where it came from."""

    value: Any
    origin: str


def resolve(
    stage: type[StageSettings],
    given: Mapping[str, Given],
    config: str | None = None,
    preset_of: Callable[[str], str] = lambda model: "paper",
) -> StageSettings:
    """The settings of one run.

    given: values of flags, from the command line and the environment. config: a file for `--config`. preset_of: the
    preset that `--preset auto` takes for a model. Raises UsageError for what is not in bounds, or not known.
    """
    known = declared(stage)
    everything = (from_config(stage, config) if config else {}) | dict(given)
    values = {name: one.value for name, one in everything.items()}
    origins = {name: one.origin for name, one in everything.items()}
    if "preset" in known:
        if values.get("preset", "auto") == "auto":
            model = "base" if "base" in known else "model"
            values["preset"] = preset_of(values.get(model, known[model].default))
        for name, one in known.items():
            if one.default is PRESET and name not in values:
                values[name] = presets.of_stage(stage.STAGE)[values["preset"]][name]
                origins[name] = f"preset {values['preset']}"
    return stage(**values, origins=origins)


def from_config(stage: type[StageSettings], file: str) -> dict[str, Given]:
    """The settings that a TOML file has for a stage: in its table [STAGE], or outside of any table.

    Raises UsageError for a file that is none, an unknown setting, and a value of another type.
    """
    try:
        tables = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        assert error.strerror is not None  # the system gives its reason
        raise UsageError(f"--config {file}: {error.strerror.lower()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {file}: not TOML ({error})") from None
    from reasonrl.settings import STAGES

    for name, value in tables.items():
        if isinstance(value, dict) and name not in STAGES:
            raise UsageError(f"--config {file}: [{name}] is no stage; there are {', '.join(STAGES)}")
    pairs = {name: value for name, value in tables.items() if not isinstance(value, dict)}
    pairs |= tables.get(stage.STAGE, {}) if isinstance(tables.get(stage.STAGE), dict) else {}
    known = {name: one for name, one in declared(stage).items() if not one.is_argument}
    # A setting may be called by its flag: max-grad-norm, set.
    names = {flag.lstrip("-"): name for name, one in known.items() for flag in one.flags} | {
        name: name for name in known
    }
    read = {}
    for key, value in pairs.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f" (see `reasonrl {stage.STAGE} --help`)"
            raise UsageError(f"--config {file}: {stage.STAGE} has no setting {key!r}{hint}")
        one = known[names[key]]
        try:
            read[one.name] = Given(typed(one, value), file)
            one.check(read[one.name].value)
        except UsageError as error:
            raise UsageError(f"--config {file}: {error}") from None
    return read


WANTED = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def typed(one: Declared, value: Any) -> Any:
    """A TOML value as the setting has it. Raises UsageError where it cannot be."""
    if one.is_list:
        return tuple(_typed(one, item) for item in (value if isinstance(value, list) else [value]))
    return _typed(one, value)


def _typed(one: Declared, value: Any) -> Any:
    if one.choices:
        if value not in one.choices:
            raise UsageError(f"{one.name} = {value!r}: want one of {', '.join(one.choices)}")
        return value
    kind = one.plain_kind
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UsageError(f"{one.name} = {value!r}: want {WANTED[kind]}")
    return value
