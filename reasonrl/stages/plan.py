"""`reasonrl plan`: what command lines would cost, without running them."""

import os
import shlex
from typing import Annotated, Any

import typer

from reasonrl import console, jsonl, provenance
from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.planning import commands, devices
from reasonrl.planning.world import Assumptions, Cost, World
from reasonrl.stages import flags

Commands = Annotated[
    list[str] | None,
    typer.Argument(metavar="COMMANDS|-", help="Files with a command a line; default: stdin.", show_default=False),
]
DeviceFlag = Annotated[str, typer.Option("--device", metavar="D", help=f"{', '.join(devices.DEVICES)}.")]
Assume = Annotated[
    list[str] | None,
    typer.Option("--assume", metavar="NAME=VALUE", show_default="docs/plan.md",
                 help="What only a run can tell, such as keep=0.4; may be repeated."),
]  # fmt: skip
COLUMNS = ("samples", "drawn", "read", "learnt", "GB", "minutes")


def plan(
    context: typer.Context,
    lines: Commands = None,
    device: DeviceFlag = "cpu2",
    assume: Assume = None,
    output: flags.OutputFile = "-",
    force: flags.Force = False,
    resume: flags.Resume = False,
) -> None:
    """Say what command lines would cost; run nothing.

    Estimates samples, tokens, memory and seconds. Each line is parsed as the stage itself would parse it; what a line
    writes, later lines may read. One record a command on stdout, a table on stderr. docs/plan.md explains the
    estimates.

    \b
    Examples:
      PRESET=llama2-7b PLAN=1 recipes/table1.sh
      PLAN=lines recipes/table1.sh | reasonrl plan --device h100 | jq -s 'map(.seconds) | add / 3600'
      echo 'reasonrl sample --task gsm8k --k 96 --model meta-llama/Llama-2-7b-hf' | reasonrl plan --device a100
    """
    stages = context.find_root().command.commands
    world = World(devices.device(device), Assumptions.parse(assume or []))
    shown, totals = [], Cost(memory=0)
    readers = jsonl.inputs(lines or [])
    with provenance.open_output(output, force=force, resume=resume) as out:
        out.reads(readers)
        for reader in readers:
            for line in reader:
                try:
                    variables, words = _words(line.decode(errors="replace"))
                    if not words:
                        continue
                    cost = commands.cost_of(words[0], _parse(words, variables, stages), shlex.join(words), world)
                except ReasonRLError as error:
                    raise type(error)(f"{reader.name}:{reader.line_number}: {error}") from None
                if cost.no_room:
                    console.warn(f"{reader.name}:{reader.line_number}: {cost.no_room}")
                command = shlex.join(["reasonrl", *words])
                out.write(_record(command, words[0], cost, world.device))
                shown.append((_row(cost, world.device), command))
                for name in ("samples", "generated", "read", "learnt", "seconds"):
                    setattr(totals, name, getattr(totals, name) + getattr(cost, name))
                totals.memory = max(totals.memory, cost.memory)
    if not shown:
        raise ReasonRLError("no command lines came in")
    unit = "GPU-hours" if world.device.is_gpu else "hours"
    total = f"in all: {totals.seconds / 3600:.2f} {unit} on {world.device.name}"
    console.lines([(COLUMNS, "command"), *shown, (_row(totals, world.device), total)])


def _words(line: str) -> tuple[dict[str, str], list[str]]:
    """The variables before `reasonrl` on a line of shell, and the words behind it; no words for a line without any."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise UsageError(f"{line.strip()!r} is no line of shell ({error})") from None
    variables = {}
    while words and "=" in words[0]:
        name, _, variables[name] = words.pop(0).partition("=")
    if words[1:3] == ["-m", "reasonrl"]:
        words = words[2:]
    if words and (words[0] != "reasonrl" or len(words) < 2):
        raise UsageError(f"{line.strip()!r}: want `reasonrl STAGE FLAGS…`, one command a line")
    return variables, words[1:]


def _parse(words: list[str], variables: dict[str, str], stages: dict[str, Any]) -> dict[str, Any]:
    """The values of all flags of a command line, by the stage's own parser. Raises UsageError where it complains."""
    stage, *arguments = words
    if stage not in stages:
        raise UsageError(f"no stage {stage!r}; there are {', '.join(stages)}")
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        with stages[stage].make_context(stage, arguments) as parsed:
            return parsed.params
    except typer.BadParameter.__mro__[1] as error:  # Typer's own copy of click's UsageError
        raise UsageError(f"{stage}: {error.format_message()}") from None
    finally:
        os.environ.clear()
        os.environ.update(before)


def _record(command: str, stage: str, cost: Cost, device: devices.Device) -> dict[str, Any]:
    return {
        "command": command, "stage": stage, "records": round(cost.records), "samples": round(cost.samples),
        "tokens": {name: round(getattr(cost, name)) for name in ("generated", "read", "learnt")},
        "memory_gb": round(cost.memory / 1e9, 2), "fits": cost.memory <= device.memory and not cost.no_room,
        "seconds": round(cost.seconds, 1), "gpu_hours": round(cost.seconds / 3600, 4) if device.is_gpu else 0,
        "device": device.name,
    }  # fmt: skip


def _row(cost: Cost, device: devices.Device) -> tuple[str, ...]:
    counts = (cost.samples, cost.generated, cost.read, cost.learnt)
    too_much = "!" if cost.memory > device.memory else ""
    return (*map(_short, counts), f"{cost.memory / 1e9:.1f}{too_much}", f"{cost.seconds / 60:.1f}")


def _short(count: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}" if count else ""
