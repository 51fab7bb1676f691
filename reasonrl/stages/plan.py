"""`reasonrl plan`: what command lines would cost, without running them."""

import shlex
from typing import Any

from reasonrl import console, options
from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.io import jsonl, provenance
from reasonrl.planning import commands, devices
from reasonrl.planning.world import Assumptions, Cost, World
from reasonrl.settings import STAGES, PlanSettings, StageSettings

COLUMNS = ("samples", "drawn", "read", "learnt", "GB", "minutes")


def plan(settings: PlanSettings) -> None:
    """Say what command lines would cost; run nothing.

    Estimates samples, tokens, memory and seconds. Each line is parsed as the stage itself would parse it; what a line
    writes, later lines may read. One record per command on stdout, a table on stderr. docs/plan.md explains the
    estimates.

    \b
    Examples:
      PRESET=llama2-7b PLAN=1 recipes/table1.sh
      PLAN=lines recipes/table1.sh | reasonrl plan --device h100 | jq -s 'map(.seconds) | add / 3600'
      echo 'reasonrl sample --task gsm8k --k 96 --model meta-llama/Llama-2-7b-hf' | reasonrl plan --device a100
    """
    world = World(devices.device(settings.device), Assumptions.parse(settings.assume))
    shown: list[tuple[tuple[str, ...], str]] = []
    totals = Cost(memory=0)
    readers = jsonl.inputs(settings.lines)
    with provenance.open_output(provenance.Run(settings)) as out:
        out.reads(readers)
        for reader in readers:
            for line in reader:
                place = f"{reader.name}:{reader.line_number}"
                try:
                    variables, words = _words(line.decode(errors="replace"))
                    if not words:
                        continue
                    parsed = _parse(words, variables, world)
                    cost = commands.cost_of(parsed, shlex.join(words), world)
                except ReasonRLError as error:
                    raise type(error)(f"{place}: {error}") from None
                if cost.no_room:
                    console.warn(f"{place}: {cost.no_room}")
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
    """The variables before `reasonrl` on a line of shell, and the words after it; no words for a line without any."""
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


def _parse(words: list[str], variables: dict[str, str], world: World) -> StageSettings:
    """The settings of a command line, by the stage's own parser. Raises UsageError where it complains."""
    stage, *arguments = words
    if stage not in STAGES:
        raise UsageError(f"no stage {stage!r}; there are {', '.join(STAGES)}")
    # What --preset auto takes, for a model that an earlier line would make.
    preset_of = lambda model: "tiny" if world.shape(model).family.startswith("tiny") else "paper"
    with options.with_environment(variables):
        return options.parse(STAGES[stage], arguments, preset_of)


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
