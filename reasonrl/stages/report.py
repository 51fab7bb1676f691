"""`reasonrl report`: metrics records → a Markdown table and plots."""

from pathlib import Path

from reasonrl import console
from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.io import jsonl
from reasonrl.io.records import Record
from reasonrl.settings import ReportSettings


def report(settings: ReportSettings) -> None:
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
    target = Path(settings.output)
    table = target / "report.md"
    if table.exists() and settings.resume and not settings.force:
        print(table)
        return
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; name a directory")
    if table.exists() and not settings.force:
        raise UsageError(f"{table} exists; --force overwrites it, --resume keeps it")
    from reasonrl.evaluation import plots  # brings numpy
    from reasonrl.evaluation import report as reporting

    records: list[Record] = []

    def visit(record: Record, _: bytes) -> None:
        reporting.check(record)
        records.append(record)

    jsonl.each(jsonl.inputs(settings.metrics), visit)
    if not records:
        raise ReasonRLError("no metrics records came in")
    rows = reporting.along(reporting.merge_seeds(records), settings.x)
    known = {name for row in rows for name in row.values}
    for name in settings.metric:
        if name not in known:
            raise UsageError(f"--metric {name}: no record has it; there are {', '.join(sorted(known))}")
    compared = {
        name: reporting.along(reporting.differences(records, _labels(name)), settings.x) for name in settings.against
    }
    target.mkdir(parents=True, exist_ok=True)
    pictures = plots.plot(rows, settings.x, target, settings.metric)
    jsonl.write_text(table, reporting.markdown(rows, settings.title, pictures, settings.metric, compared))
    for path in (table, *pictures):
        print(path)
    console.log(f"{len(rows)} rows from {len(records)} records")


def _labels(text: str) -> dict[str, str]:
    labels = dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
    if len(labels) < len(text.split(",")):
        raise UsageError(f"--against {text}: want LABEL=VALUE, or several with commas between them")
    return labels
