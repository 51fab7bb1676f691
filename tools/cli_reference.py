"""docs/cli.md, written from the Typer app itself: every stage, argument, flag, default and example.

    python tools/cli_reference.py            writes docs/cli.md
    python tools/cli_reference.py --check    exits 1 if docs/cli.md is not what it would write

It reads the declarations, not the rendered help, so neither the terminal's width nor Typer's version shows in it.
"""

import inspect
import re
import sys
from enum import Enum
from pathlib import Path
from textwrap import dedent
from typing import Any, get_args

from typer.models import ArgumentInfo, OptionInfo

from reasonrl.cli import app

TARGET = Path(__file__).resolve().parents[1] / "docs" / "cli.md"

HEAD = """# Command line

*Generated from the commands by `just cli-reference`; edit the help texts in `reasonrl/stages/`, not this page.*

stdout is data only; progress, tables and warnings go to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130
interrupted. `-q/--quiet`, `--debug`, `--version` and
`-h/--help` are in every stage and left out of the tables.

| command | what it does |
| --- | --- |
"""
EVERYWHERE = {"quiet", "debug", "version"}


def reference() -> str:
    """The whole page."""
    commands = {command.name: command.callback for command in app.registered_commands}
    summaries = [f"| [`{name}`](#reasonrl-{name}) | {summary(run)} |\n" for name, run in commands.items()]
    return HEAD + "".join(summaries) + "".join(section(name, run) for name, run in commands.items())


def summary(run: Any) -> str:
    return inspect.getdoc(run).partition("\n")[0]


def section(name: str, run: Any) -> str:
    """One stage: usage, description, examples, and a table of its options."""
    text, _, examples = inspect.getdoc(run).partition("\b\nExamples:\n")
    parameters = [parameter for key, parameter in inspect.signature(run).parameters.items() if key not in EVERYWHERE]
    annotated = [(parameter, get_args(parameter.annotation)) for parameter in parameters]
    declared = [(parameter, *words) for parameter, words in annotated if words]
    arguments = [(parameter, info) for parameter, _, info in declared if isinstance(info, ArgumentInfo)]
    options = [one for one in declared if isinstance(one[2], OptionInfo)]
    usage = " ".join(["reasonrl", name, "[OPTIONS]", *(placed(*argument) for argument in arguments)])
    lines = [f"\n## `reasonrl {name}`\n", f"```text\n{usage}\n```\n", f"{text.strip()}\n"]
    lines += [f"- `{info.metavar}`: {info.help}\n" for _, info in arguments]
    lines += [f"```sh\n{dedent(examples).strip()}\n```\n", "| option | meaning | default |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(row(*option) for option in options)]) + "\n"


def placed(parameter: inspect.Parameter, info: ArgumentInfo) -> str:
    """An argument in the usage line: what may be left out stands in brackets, and may be repeated."""
    return info.metavar if parameter.default is parameter.empty else f"[{info.metavar}]..."


def row(parameter: inspect.Parameter, kind: Any, info: OptionInfo) -> str:
    # A cell must hold no `|`: sites and code hosts disagree about how to escape one inside backticks.
    declared = [name for name in (info.default, *info.param_decls) if isinstance(name, str)]
    names = ", ".join(f"`{name}`" for name in sorted(declared, key=len))
    choices = kind if inspect.isclass(kind) and issubclass(kind, Enum) else None
    value = f"{{{','.join(choice.value for choice in choices)}}}" if choices else info.metavar
    if value and bool not in (kind, *get_args(kind)):
        names = f"{names[:-1]} {value}`"
    return f"| {names} | {info.help} | {default(parameter.default, info)} |"


def default(value: Any, info: OptionInfo) -> str:
    """The default and the range, as the help shows them."""
    shown = info.show_default if isinstance(info.show_default, str) else ""
    if not shown and value is not None and not isinstance(value, bool) and value != "":
        shown = f"`{value.value if isinstance(value, Enum) else value}`"
    low, high = info.min, info.max
    bounds = f"{low} to {high}" if None not in (low, high) else f"{low} or more" if low is not None else ""
    return f"{shown} ({bounds})" if bounds else shown


def main(arguments: list[str]) -> int:
    page = reference()
    if arguments == ["--check"]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page:
            print(f"{TARGET.name} is not what the commands say: run `just cli-reference`", file=sys.stderr)
            return 1
        return 0
    if arguments:
        print(re.sub(r"\n\n.*", "", __doc__, flags=re.S), file=sys.stderr)
        return 2
    TARGET.write_text(page, encoding="utf-8")
    print(TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
