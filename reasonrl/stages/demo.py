"""`reasonrl demo`: Expert Iteration on the embedded default, start to finish, with a commentary."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from reasonrl import console
from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.settings import DemoSettings


def demo(settings: DemoSettings) -> None:
    """Watch a tiny language model teach itself to reason.

    Expert Iteration in a few minutes on a laptop: runs recipes/expert_iteration.sh, a shell loop of sample → score →
    filter → sft, on the bundled task and model. The same line again resumes an interrupted demo.

    \b
    Examples:
      reasonrl demo
      reasonrl demo --rounds 3 --seed 1 -o runs/demo-seed1
    """
    output = settings.output
    recipe = find_recipe("expert_iteration.sh")
    if settings.force and os.path.exists(output):
        clear(Path(output))
    print(INTRODUCTION.format(recipe=recipe, output=output, rounds=settings.rounds), file=sys.stderr)
    watch = console.Stopwatch()
    variables = {"OUT": output, "ROUNDS": str(settings.rounds), "SEED": str(settings.seed)}
    program = {"REASONRL": f"{sys.executable} -m reasonrl"}
    here = Path(sys.executable).parent
    if (here / "reasonrl").exists():  # by name: recipes split REASONRL at spaces, which the path may have
        program = {"REASONRL": "reasonrl", "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    ended = subprocess.run(["bash", str(recipe)], env=os.environ | variables | program, stdout=sys.stderr)
    if ended.returncode:
        raise ReasonRLError(f"the recipe stopped with exit code {ended.returncode}; the same line again resumes it")
    print((Path(output) / "report" / "report.md").read_text(), file=sys.stdout)
    print(NEXT.format(output=output, minutes=watch.seconds / 60), file=sys.stderr)


def clear(directory: Path) -> None:
    """Removes what an earlier demo left. Raises UsageError, and removes nothing, where something else is there too."""
    if not directory.is_dir():
        raise UsageError(f"{directory} is no directory; name another one with --output")
    names = sorted(path.name for path in directory.iterdir())
    foreign = next((name for name in names if not re.match(r"round\d+(\.|$)|report$", name)), None)
    if foreign is None and names and not any(name.startswith("round0.") for name in names):
        foreign = names[0]
    if foreign:
        raise UsageError(f"{directory} holds {foreign}, which no demo left there, so --force does not remove it")
    shutil.rmtree(directory)


def find_recipe(name: str) -> Path:
    """A recipe of a checkout, or of an installed package."""
    package = Path(__file__).parent.parent
    for directory in (package.parent / "recipes", package / "recipes"):
        if (directory / name).exists():
            return directory / name
    raise ReasonRLError(f"{name} is not installed; run it from a checkout's recipes/")


INTRODUCTION = """
A language model of 0.7 million parameters, pretrained on worked solutions in which nearly every second step goes wrong,
now teaches itself: it samples solutions, keeps those whose final answer is right, and is fine-tuned on them, starting
again from the pretrained weights each round. That is Expert Iteration. The lines that start with + are the commands.

  recipe   {recipe}
  output   {output}
  rounds   {rounds}
"""

NEXT = """
That took {minutes:.1f} minutes. The plots are {output}/report/by-round.png and {output}/report/pass-at-k.png.

What to try next:
  jq -r 'select(.reward == 1) | .completion' {output}/round1.scored.jsonl | head     read what it taught itself
  reasonrl sample --model {output}/round1 --k 4 | reasonrl score | jq -c '[.id, .correct, .extracted]'
  K=16 LIMIT=4000 ROUNDS=3 OUT=runs/longer bash recipes/expert_iteration.sh           more samples, more rounds
  TASK=gsm8k BASE=./smollm2 bash recipes/expert_iteration.sh                          real problems, a real model
"""
