"""Settings as command-line options: how Typer gets them, how help shows them, how a line is parsed."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import GenericAlias
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from reasonrl import __version__
from reasonrl.errors import UsageError
from reasonrl.settings.declare import GROUPS, Declared, StageSettings, cached, declared
from reasonrl.settings.resolve import Given, resolve

# Typer has its own copy of click and exports little of it: this is the class that all complaints of its parser have.
ParserError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

EVERY_STAGE = (
    ("--config FILE", "Settings from a TOML file: default < preset < FILE < environment < command line."),
    ("-q, --quiet", "Print only warnings and errors on stderr."),
    ("--debug", "Show a traceback with an error."),
    ("--version", "Print the version and exit."),
    ("-h, --help", "Show this message and exit."),
)


def signature(stage: type[StageSettings]) -> list[inspect.Parameter]:
    """A stage's settings as parameters for Typer. All default to None: a value is one that was given."""
    parameters = []
    for one in declared(stage).values():
        kind: Any = GenericAlias(list, one.plain_kind) if one.is_list else one.plain_kind
        if one.is_argument:
            option = typer.Argument(metavar=one.metavar, help=one.about.help, show_default=False)
        else:
            option = typer.Option(
                *one.flags, metavar=one.metavar or None, help=one.about.help, envvar=variables(one, stage.STAGE)
            )
        default = ... if one.is_required else None
        annotation: Any = Annotated[kind if one.is_required else kind | None, option]
        parameters.append(
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return parameters


def variables(one: Declared, stage: str) -> list[str]:
    """The variables of the environment that give a setting, the first that is set counts: REASONRL_STAGE_NAME, and for
    some a shorter one that all stages share."""
    return [f"REASONRL_{stage}_{one.name}".upper(), *([one.about.env] if one.about.env else [])]


def given(context: typer.Context, values: Mapping[str, Any], stage: type[StageSettings]) -> dict[str, Given]:
    """Of the parser's values, those that somebody gave."""
    values_given = {}
    for name, one in declared(stage).items():
        if (value := values.get(name)) in (None, []):
            continue
        source = context.get_parameter_source(name)
        origin = "environment" if source and source.name == "ENVIRONMENT" else "command line"
        values_given[name] = Given(tuple(value) if one.is_list else value, origin)
    return values_given


def parse(stage: type[StageSettings], arguments: Sequence[str], preset_of: Callable[[str], str]) -> StageSettings:
    """The settings of a command line, without running it. Raises UsageError where the stage's own parser complains."""
    parser = _parser(stage)
    try:
        with parser.make_context(stage.STAGE, list(arguments), obj=preset_of) as context:
            return parser.invoke(context)
    except ParserError as error:
        raise UsageError(f"{stage.STAGE}: {error.format_message()}") from None


@cached
def _parser(stage: type[StageSettings]) -> Any:
    """A command whose result is its settings; the context's object gives the preset of a model."""

    def command(context: typer.Context, config: str | None, **values: Any) -> StageSettings:
        return resolve(stage, given(context, values, stage), config, context.obj)

    app = typer.Typer(add_completion=False)
    register(app, stage, command, "")
    return typer.main.get_command(app)


def _print_version(is_given: bool) -> None:
    if is_given:
        print(f"reasonrl {__version__}")
        raise typer.Exit


Config = Annotated[str | None, typer.Option("--config", metavar="FILE", help=EVERY_STAGE[0][1])]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help=EVERY_STAGE[1][1])]
Debug = Annotated[bool, typer.Option("--debug", help=EVERY_STAGE[2][1])]
Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help=EVERY_STAGE[3][1])]


def register(app: typer.Typer, stage: type[StageSettings], command: Callable[..., Any], help: str) -> None:
    """Adds a stage to an app. command: takes the context, the flags of every stage (`config`, `quiet`, `debug`,
    `version`), and the values of the stage's settings."""

    def run(**values: Any) -> Any:
        return command(**values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [("config", Config, None), ("quiet", Quiet, False), ("debug", Debug, False), ("version", Version, False)]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("context", keyword, annotation=typer.Context),
            *signature(stage),
            *(inspect.Parameter(name, keyword, default=default, annotation=kind) for name, kind, default in shared),
        ]
    )
    run.__doc__ = help
    app.command(stage.STAGE, cls=_command_class(stage))(run)


def _command_class(stage: type[StageSettings]) -> type[TyperCommand]:
    class StageCommand(TyperCommand):
        """A command whose help shows the settings in their groups."""

        def format_options(self, ctx: Any, formatter: Any) -> None:
            for title, rows in help_groups(stage):
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=34)

    return StageCommand


def help_groups(stage: type[StageSettings]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Titles, and under each (flags with their value, help)."""
    settings = declared(stage).values()
    arguments = [(one.metavar, one.about.help) for one in settings if one.is_argument]
    if arguments:
        yield "Arguments", arguments
    for group in GROUPS:
        rows = [_row(one, stage.STAGE) for one in settings if one.about.group == group and not one.is_argument]
        if rows:
            yield group, rows
    yield "Every stage", list(EVERY_STAGE)


def _row(one: Declared, stage: str) -> tuple[str, str]:
    names = ", ".join(sorted(one.flags, key=len))
    notes = [f"default: {shown}"] if (shown := one.shown_default(stage)) else []
    notes += (
        [one.shown_bounds()] if one.about.high is not None else []
    )  # that a count is at least 1 goes without saying
    help = f"{one.about.help} [{'; '.join(notes)}]" if notes else one.about.help
    return f"{names} {one.metavar}".rstrip(), help


@contextmanager
def with_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets these variables for a while, besides those that are set."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
