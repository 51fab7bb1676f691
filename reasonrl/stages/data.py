"""`reasonrl data`: a task's problems, as JSONL."""

from typing import Annotated

import typer

from reasonrl import provenance
from reasonrl.stages import flags
from reasonrl.tasks import source

TaskName = Annotated[
    str,
    typer.Argument(metavar="TASK", help="mini, gsm8k, svamp, a JSONL or Python file, or `-` (stdin).",
                   show_default=False),
]  # fmt: skip
Shuffle = Annotated[
    int | None, typer.Option("--seed", min=0, help="Shuffle with this seed.", show_default="the task's own order")
]


def data(
    task: TaskName,
    split: flags.SplitName = flags.Split.train,
    limit: flags.Limit = None,
    seed: Shuffle = None,
    path: flags.Path = None,
    output: flags.OutputFile = "-",
    force: flags.Force = False,
    resume: flags.Resume = False,
) -> None:
    """Print the problems of a task.

    mini is made on the spot, 10,000 train and 1,000 test problems. gsm8k and svamp are read from --path or
    $REASONRL_DATA (DIR/gsm8k/train.jsonl), else from the hub. docs/tasks.md tells how to bring your own.

    \b
    Examples:
      reasonrl data mini --limit 3 | jq .
      reasonrl data gsm8k --path ~/data --split test -o gsm8k-test.jsonl
      reasonrl data mini --seed 1 --limit 100 | reasonrl sample --k 4
    """
    problems, readers = source.problem_stream([], task, split, limit, path=path, shuffle_seed=seed)
    with provenance.open_output(output, force=force, resume=resume) as out:
        out.reads(readers)
        for problem in problems:
            out.write(problem)
