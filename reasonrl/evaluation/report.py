"""Tables and plots of metrics records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from reasonrl.errors import ReasonRLError, RecordError, UsageError
from reasonrl.evaluation import intervals
from reasonrl.io.records import Record

NOT_LABELS = {"metrics", "questions", "samples", "greedy"}
NUMBERS = ("unparseable", "truncated", "unique_solutions", "unique_correct")


class Value(NamedTuple):
    """A metric's mean over so many seeds, with its 95% interval."""

    mean: float
    low: float
    high: float
    seeds: int = 1


@dataclass(frozen=True)
class Row:
    """One line of the table: labels, and the value of each metric; not every seed need have each of them."""

    labels: dict[str, Any]
    values: dict[str, Value]
    seeds: int


def check(record: Record) -> None:
    """Raises RecordError unless this is a metrics record, with labels that are text or numbers."""
    metrics = record.get("metrics")
    if type(metrics) is not list:
        raise RecordError('no list in field "metrics" (is this what `reasonrl eval` wrote?)')
    for metric in metrics:
        if type(metric) is not dict or type(metric.get("name")) is not str or type(metric.get("k")) is not int:
            raise RecordError('a metric needs "name" (text) and "k" (a whole number)')
        if not all(type(metric.get(name)) in (int, float) for name in ("value", "low", "high")):
            raise RecordError(f'{metric["name"]}@{metric["k"]} needs numbers in "value", "low" and "high"')
    for name, label in record.items():
        if name not in NOT_LABELS and type(label) not in (str, int, float, bool, type(None)):
            raise RecordError(f'label "{name}" is neither text nor a number')


def merge_seeds(records: Sequence[Record]) -> list[Row]:
    """Records that agree in all labels but `seed` become one row, in order of first appearance.

    Raises ReasonRLError if two of them agree in `seed` as well: their spread would say nothing.
    """
    groups = _groups(records)
    for group in groups:
        seeds = [record.get("seed") for record in group]
        if len(set(seeds)) < len(seeds):
            labels = " ".join(f"{name}={value}" for name, value in _labels(group[0]).items()) or "no labels"
            raise ReasonRLError(f"several records have {labels} and one seed; tell them apart with `eval --set`")
    return [Row(_labels(group[0]), _values(group), len(group)) for group in groups]


def differences(records: Sequence[Record], labels: dict[str, str]) -> list[Row]:
    """What every row has more than the one with these labels, seed by seed: the mean and its 95% t-interval.

    Pairs by seed because runs of one seed have things in common, such as their start and the questions. Raises
    UsageError if none or several rows have the labels.
    """
    groups = _groups(records)
    chosen = [group for group in groups if labels.items() <= {n: str(v) for n, v in _labels(group[0]).items()}.items()]
    if len(chosen) != 1:
        wanted = ",".join(f"{name}={value}" for name, value in labels.items())
        raise UsageError(f"--against {wanted}: {len(chosen) or 'no'} rows have that; name what one row alone has")
    base = {record.get("seed"): _numbers(record) for record in chosen[0]}
    rows = []
    for group in groups:
        gaps: dict[str, list[float]] = {}
        for record in group if group is not chosen[0] else []:
            other = base.get(record.get("seed"), {})
            for name, value in _numbers(record).items():
                if name in other:
                    gaps.setdefault(name, []).append(value.mean - other[name].mean)
        values = {name: Value(*intervals.seed_interval(of_seeds), len(of_seeds)) for name, of_seeds in gaps.items()}
        rows += [Row(_labels(group[0]), values, len(group))] if values else []
    return rows


def along(rows: Sequence[Row], x: str) -> list[Row]:
    """The rows that agree in all labels but `x` together, in the order of its numbers."""
    rest = lambda row: frozenset(pair for pair in row.labels.items() if pair[0] != x)
    place = {name: number for number, name in enumerate(dict.fromkeys(map(rest, rows)))}
    number = lambda row: row.labels[x] if isinstance(row.labels.get(x), int | float) else 0
    return sorted(rows, key=lambda row: (place[rest(row)], number(row)))


def _labels(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in {*NOT_LABELS, *NUMBERS, "seed"}}


def _groups(records: Sequence[Record]) -> list[list[Record]]:
    groups: dict[frozenset, list[Record]] = {}
    for record in records:
        groups.setdefault(frozenset(_labels(record).items()), []).append(record)
    return list(groups.values())


def _numbers(record: Record) -> dict[str, Value]:
    """The metrics and counts of one record, by name."""
    metrics = {
        f"{metric['name']}@{metric['k']}": Value(metric["value"], metric["low"], metric["high"])
        for metric in record["metrics"]
    }
    return metrics | {
        name: Value(*(record[name],) * 3) for name in NUMBERS if isinstance(record.get(name), int | float)
    }


def _values(group: list[Record]) -> dict[str, Value]:
    by_name: dict[str, list[Value]] = {}
    for record in group:
        for name, value in _numbers(record).items():
            by_name.setdefault(name, []).append(value)
    return {name: _over_seeds(name, values) for name, values in by_name.items()}


def _over_seeds(name: str, values: list[Value]) -> Value:
    """The mean and its t-interval, cut to what the number can be: a t-interval knows nothing of that. Where all agree
    there is no spread to make one of, and the first one's interval over questions stays."""
    if len({value.mean for value in values}) == 1:
        return values[0]._replace(seeds=len(values))
    mean, low, high = intervals.seed_interval([value.mean for value in values])
    return Value(mean, max(0.0, low), high if name.startswith("unique_") else min(1.0, high), len(values))


def markdown(
    rows: Sequence[Row],
    title: str,
    plots: Sequence[Path],
    chosen: Sequence[str] = (),
    against: Mapping[str, Sequence[Row]] | None = None,
) -> str:
    """The report's text: heading, table, how to read it, plots, differences. chosen: the only metrics with a column, in
    order. against: what rows are compared with, and the differences to it."""
    metrics = chosen or [*main_metrics(rows), *(name for name in NUMBERS if any(name in row.values for row in rows))]
    several = any(row.seeds > 1 for row in rows)
    lines = [f"# {title}", "", *_table(rows, metrics, several)]
    interval = "the value with its 95% bootstrap interval over questions"
    if several:
        interval = f"{interval} or, where there are several seeds, their mean with its 95% t-interval"
        interval = f"{interval}; where all of them agree, with the first one's interval over questions"
    some = any(row.values[name].seeds < row.seeds for row in rows for name in metrics if name in row.values)
    fewer = " (N) after a cell: N of the row's seeds have that number." if some else ""
    lines += ["", f"Each cell is {interval}.{fewer}", ""]
    lines += [f"![{path.stem}]({path.name})\n" for path in plots]
    for name, others in (against or {}).items():
        if not others:
            continue
        lines += [f"## Differences to {_text(name)}", "", *_table(others, metrics, several, signed=True), ""]
        lines += [
            "Each cell is the mean of the differences seed by seed, with its 95% t-interval where there are several.",
            "",
        ]
    return "\n".join(lines)


def _table(rows: Sequence[Row], metrics: Sequence[str], seeds: bool, signed: bool = False) -> list[str]:
    labels = list(dict.fromkeys(name for row in rows for name in row.labels))
    header = [*map(_text, labels), *["seeds"] * seeds, *(name.replace("_", " ") for name in metrics)]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in rows:
        cells = [_text(row.labels.get(name, "")) for name in labels] + [str(row.seeds)] * seeds
        cells += [_cell(row.values.get(name), row.seeds, "+" if signed else "") for name in metrics]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _text(label: Any) -> str:
    """A label that cannot break the table."""
    return str(label).replace("|", "\\|").replace("\n", " ")


def _metric_order(name: str) -> tuple[int, int]:
    kind, _, k = name.partition("@")
    return ("maj", "rerank", "pass").index(kind) if kind in ("maj", "rerank", "pass") else 9, int(k)


def main_metrics(rows: Sequence[Row]) -> list[str]:
    """k = 1 and the largest k of each kind; the records have them all."""
    by_kind: dict[str, list[str]] = {}
    for name in sorted({name for row in rows for name in row.values if "@" in name}, key=_metric_order):
        by_kind.setdefault(name.partition("@")[0], []).append(name)
    return [
        name
        for names in by_kind.values()
        for name in dict.fromkeys((names[0] if names[0].endswith("@1") else names[-1], names[-1]))
    ]


def _cell(value: Value | None, seeds: int, sign: str) -> str:
    if value is None:
        return ""
    interval = "" if value.low == value.high else f" [{value.low:{sign}.3f}, {value.high:{sign}.3f}]"
    fewer = f" ({value.seeds})" if value.seeds < seeds else ""
    return f"{value.mean:{sign}.3f}{interval}{fewer}"
