"""The command line: one Typer app, and the one place where an error becomes an exit code."""

import inspect
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, get_type_hints

# Threads that spin while they wait slow a pipe of two torch stages tenfold on a small machine. OpenMP reads
# this when torch is imported, which happens only inside a stage.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

from reasonrl import console, options
from reasonrl.errors import AlreadyDone, ReasonRLError
from reasonrl.io import jsonl, provenance, streams
from reasonrl.settings import StageSettings
from reasonrl.settings.resolve import resolve
from reasonrl.stages import data, demo, eval, filter, orm, plan, ppo, rcrl, report, sample, score, sft

STAGES: dict[str, Callable[[Any], None]] = {
    "data": data.data,
    "sample": sample.sample,
    "score": score.score,
    "filter": filter.filter_,
    "sft": sft.sft,
    "orm": orm.orm,
    "ppo": ppo.ppo,
    "rcrl": rcrl.rcrl,
    "eval": eval.eval_,
    "report": report.report,
    "plan": plan.plan,
    "demo": demo.demo,
}


app = typer.Typer(
    name="reasonrl",
    help="Teach language models to reason with reinforcement learning: stages that read and write JSONL.",
    epilog="Start with `reasonrl demo`. Every stage explains itself: `reasonrl sample --help`.",
    add_completion=False,
    rich_markup_mode=None,  # plain help: it starts faster and reads the same in a pager
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(version: options.Version = False) -> None:
    pass


def settings_class(run: Callable[[Any], None]) -> type[StageSettings]:
    """What a stage's function takes."""
    return get_type_hints(run)["settings"]


def _register(run: Callable[[Any], None]) -> None:
    """Adds a stage, with the flags that every stage has."""
    stage = settings_class(run)

    def command(context: typer.Context, config: str | None, quiet: bool, debug: bool, version: bool, **values: Any):
        from reasonrl.models.checkpoint import preset_of

        console.set_up(stage.STAGE, quiet)
        provenance.hash_files.cache_clear()
        run(resolve(stage, options.given(context, values, stage), config, preset_of))

    options.register(app, stage, command, inspect.getdoc(run) or "")


for _run in STAGES.values():
    _register(_run)


def run(arguments: list[str]) -> int:
    """Runs one command line. Returns its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    stage = next((word for word in arguments if word in STAGES), "")
    console.set_up(stage, False)
    try:
        command = typer.main.get_command(app)
        with command.make_context("reasonrl", list(arguments)) as context:
            command.invoke(context)
        streams.finish_stdout()
        return 0
    except typer.Exit as ending:
        return ending.exit_code
    except AlreadyDone as done:
        console.log(str(done))
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and streams.has_no_reader():  # `| head` has seen enough
            streams.silence_stdout()
            return 0
        if "--debug" in arguments:
            traceback.print_exc()
        problem, code = _explain(error, stage)
        console.error(problem)
        return code


def _explain(error: BaseException, stage: str) -> tuple[str, int]:
    """What went wrong, in one line, and the exit code that it earns."""
    if isinstance(error, ReasonRLError):
        return str(error), error.exit_code
    if isinstance(error, options.ParserError):
        message = error.format_message()
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help
            print(message, file=sys.stderr)
            message = "name a stage"
        return f"{message} (see `reasonrl {stage + ' ' if stage else ''}--help`)", 2
    if isinstance(error, OSError):
        return jsonl.describe_error(error), 1
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", 130
    if isinstance(error, MemoryError):
        return "out of memory (where there is a --batch-tokens, a smaller one needs less)", 1
    return f"{type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)", 1


def main() -> NoReturn:
    """The console script."""
    streams.secure_standard_streams()
    code = run(sys.argv[1:])
    try:
        streams.finish_stdout()
    except OSError:  # already reported, or there is no reader
        streams.silence_stdout()
    sys.exit(code)
