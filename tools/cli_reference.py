"""docs/cli.md, written from the settings: every stage, argument, flag, default and example.

    python tools/cli_reference.py            writes docs/cli.md
    python tools/cli_reference.py --check    exits 1 if docs/cli.md is not what it would write

It reads the declarations, not the rendered help, so neither the terminal's width nor Typer's version shows in it.
"""

import inspect
import re
import sys
from pathlib import Path
from textwrap import dedent

from reasonrl import cli
from reasonrl.settings import STAGES
from reasonrl.settings.declare import GROUPS, Declared, StageSettings, declared

TARGET = Path(__file__).resolve().parents[1] / "docs" / "cli.md"

HEAD = """# Command line

*Generated from the settings by `just cli-reference`; edit the help texts in `reasonrl/settings/` and
`reasonrl/stages/`, not this page.*

stdout is data only; progress, tables and warnings go to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130
interrupted. `--config FILE`, `-q/--quiet`, `--debug`, `--version` and `-h/--help` are in every stage and left out of
the tables. Each flag may also stand in a file or in a variable of the environment: [settings](settings.md).

| command | what it does |
| --- | --- |
"""


def reference() -> str:
    """The whole page."""
    summaries = [f"| [`{name}`](#reasonrl-{name}) | {description(name).partition(chr(10))[0]} |\n" for name in STAGES]
    return HEAD + "".join(summaries) + "".join(map(section, STAGES))


def description(stage: str) -> str:
    return inspect.getdoc(cli.STAGES[stage]) or ""


def section(name: str) -> str:
    """One stage: usage, description, examples, and a table of its options."""
    stage = STAGES[name]
    text, _, examples = description(name).partition("\b\nExamples:\n")
    arguments = [one for one in declared(stage).values() if one.is_argument]
    usage = " ".join(["reasonrl", name, "[OPTIONS]", *map(placed, arguments)])
    lines = [f"\n## `reasonrl {name}`\n", f"```text\n{usage}\n```\n", f"{text.strip()}\n"]
    lines += [f"- `{one.metavar}`: {one.about.help}\n" for one in arguments]
    lines += [f"```sh\n{dedent(examples).strip()}\n```", *(line for group in GROUPS for line in table(stage, group))]
    return "\n".join(lines) + "\n"


def placed(argument: Declared) -> str:
    """An argument in the usage line: what may be left out stands in brackets, and may be repeated."""
    return argument.metavar if argument.is_required else f"[{argument.metavar}]..."


def table(stage: type[StageSettings], group: str) -> list[str]:
    """The options of one group; nothing for a group that the stage does not have."""
    options = [one for one in declared(stage).values() if one.about.group == group]
    if not options:
        return []
    head = f"| {group.lower()} | meaning | default |"
    return ["", head, "| --- | --- | --- |", *(row(one, stage.STAGE) for one in options)]


def row(option: Declared, stage: str) -> str:
    # A cell must hold no `|`: sites and code hosts disagree about how to escape one inside backticks.
    names = ", ".join(f"`{name}`" for name in sorted(option.flags, key=len))
    if option.metavar:
        names = f"{names[:-1]} {option.metavar}`"
    return f"| {names} | {option.about.help} | {default(option, stage)} |"


def default(option: Declared, stage: str) -> str:
    """The default and the range."""
    shown = option.shown_default(stage)
    if shown and option.about.shown is None:
        shown = f"`{shown}`"
    bounds = option.shown_bounds()
    return f"{shown} ({bounds})" if bounds else shown


def main(arguments: list[str]) -> int:
    page = reference()
    if arguments == ["--check"]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page:
            print(f"{TARGET.name} is not what the commands say: run `just cli-reference`", file=sys.stderr)
            return 1
        return 0
    if arguments:
        print(re.sub(r"\n\n.*", "", __doc__ or "", flags=re.S), file=sys.stderr)
        return 2
    TARGET.write_text(page, encoding="utf-8")
    print(TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
