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
Metric = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="NAME", show_default="k = 1, the largest k, and the counts",
                 help="Only this metric, such as maj@1 or unique_solutions, in table and plots; may be repeated."),
]  # fmt: skip
Against = Annotated[
    list[str] | None,
    typer.Option("--against", metavar="LABEL=VALUE[,…]", show_default=False,
                 help="Add a table of differences to the row with these labels, paired by seed; may be repeated."),
]  # fmt: skip
Title = Annotated[str, typer.Option("--title", help="The report's heading.")]


def report(
    metrics: Metrics = None,
    output: Directory = "report",
    x: XAxis = "round",
    metric: Metric = None,
    against: Against = None,
    title: Title = "Results",
    force: flags.Force = False,
    resume: flags.Resume = False,
) -> None:
    """Turn metrics records into a table and plots; print the paths.

    Records that differ only in the label `seed` become one row: the mean over seeds with its 95% t-interval. A single
    record keeps its bootstrap interval over questions. Where no record has a number in the label of --x, the plot shows
    the rows one below the other.

    \b
    Examples:
      reasonrl report runs/ei/round*.metrics.jsonl -o runs/ei/report
      cat runs/*/metrics.jsonl | reasonrl report -o report --title 'Expert Iteration and PPO'
      reasonrl report runs/*/metrics.jsonl --metric maj@1 --metric pass@96 -o table
      reasonrl report runs/*/metrics.jsonl --against algorithm=ppo,round=2 -o report
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
    rows = reporting.along(reporting.merge_seeds(records), x)
    known = {name for row in rows for name in row.values}
    for name in metric or []:
        if name not in known:
            raise UsageError(f"--metric {name}: no record has it; there are {', '.join(sorted(known))}")
    compared = {name: reporting.along(reporting.differences(records, _labels(name)), x) for name in against or []}
    target.mkdir(parents=True, exist_ok=True)
    plots = reporting.plot(rows, x, target, metric or [])
    jsonl.write_text(table, reporting.markdown(rows, title, plots, metric or [], compared))
    for path in (table, *plots):
        print(path)
    console.log(f"{len(rows)} rows from {len(records)} records")


def _labels(text: str) -> dict[str, str]:
    labels = dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
    if len(labels) < len(text.split(",")):
        raise UsageError(f"--against {text}: want LABEL=VALUE, or several with commas between them")
    return labels
