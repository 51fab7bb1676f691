"""`reasonrl report`: metrics records → a Markdown table and plots."""

from pathlib import Path
from typing import Annotated

import typer

from reasonrl import console, jsonl
from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.records import Record
from reasonrl.stages import flags

Metrics = Annotated[
    list[str] | None,
    typer.Argument(metavar="METRICS|-", help="Metrics records of `reasonrl eval`; default: stdin.", show_default=False),
]
Directory = Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Write report.md and the plots here.")]
XAxis = Annotated[str, typer.Option("--x", metavar="LABEL", help="The label that runs along the plots.")]
Title = Annotated[str, typer.Option("--title", help="The report's heading.")]


def report(
    metrics: Metrics = None,
    output: Directory = "report",
    x: XAxis = "round",
    title: Title = "Results",
    force: flags.Force = False,
    resume: flags.Resume = False,
) -> None:
    """Turn metrics records into a table and plots; print the paths.

    Records that differ only in the label `seed` become one row: the mean over seeds with its 95% t-interval. A single
    record keeps its bootstrap interval over questions.

    \b
    Examples:
      reasonrl report runs/ei/round*.metrics.jsonl -o runs/ei/report
      cat runs/*/metrics.jsonl | reasonrl report -o report --title 'Expert Iteration and PPO'
    """
    target = Path(output)
    table = target / "report.md"
    if table.exists() and resume and not force:
        print(table)
        return
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; name a directory")
    if table.exists() and not force:
        raise UsageError(f"{table} exists; --force overwrites it, --resume keeps it")
    from reasonrl import reporting  # brings numpy

    records: list[Record] = []

    def visit(record: Record, _: bytes) -> None:
        reporting.check(record)
        records.append(record)

    jsonl.each(jsonl.inputs(metrics or []), visit)
    if not records:
        raise ReasonRLError("no metrics records came in")
    rows = reporting.merge_seeds(records)
    target.mkdir(parents=True, exist_ok=True)
    plots = reporting.plot(rows, x, target)
    jsonl.write_text(table, reporting.markdown(rows, title, plots))
    for path in (table, *plots):
        print(path)
    console.log(f"{len(rows)} rows from {len(records)} records")
