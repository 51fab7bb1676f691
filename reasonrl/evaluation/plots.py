"""Plots: metrics along a label, rows side by side, pass@k against k, and how far a probability can be trusted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasonrl.evaluation.calibration import BINS
from reasonrl.evaluation.report import Row, main_metrics

COLOURS = ("#2a6f97", "#e07a5f", "#6a994e", "#8e6c8a", "#bc8034", "#4d4d4d")


def plot(rows: Sequence[Row], x: str, directory: Path, chosen: Sequence[str] = ()) -> list[Path]:
    """A plot of the chosen metrics (else the main ones) along the label `x`, or of every row where no row has a number
    there; and, unless some were chosen, one of pass@k against k. Returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    metrics = [name for name in chosen or main_metrics(rows) if any(name in row.values for row in rows)]
    if not metrics:
        return []
    series = _series(rows, x)
    first = _plot_along(series, x, metrics, directory) if series else _plot_rows(rows, metrics, directory)
    return [first] if chosen else [first, *_plot_pass(rows, x, directory)]


def _series(rows: Sequence[Row], x: str) -> dict[str, list[Row]]:
    """Rows that have a number in label `x`, by their other labels, sorted along `x`."""
    series: dict[str, list[Row]] = {}
    for row in rows:
        if isinstance(row.labels.get(x), int | float):
            name = " ".join(str(value) for label, value in row.labels.items() if label != x)
            series.setdefault(name, []).append(row)
    return {name: sorted(group, key=lambda row: row.labels[x]) for name, group in series.items()}


def _plot_along(series: dict[str, list[Row]], x: str, metrics: Sequence[str], directory: Path) -> Path:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(metrics), figsize=(3.2 * len(metrics), 3.2), squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for colour, (name, group) in zip(COLOURS * 9, series.items(), strict=False):
            points = [(row.labels[x], *row.values[metric][:3]) for row in group if metric in row.values]
            if points:
                at, value, low, high = zip(*points, strict=True)
                axis.plot(at, value, marker="o", color=colour, label=name or None)
                axis.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_title(metric.replace("_", " "))
        axis.set_xlabel(x)
        axis.grid(alpha=0.3)
        if all(isinstance(row.labels[x], int) for group in series.values() for row in group):
            axis.xaxis.get_major_locator().set_params(integer=True)
    if any(series):
        axes[0][0].legend(frameon=False, fontsize=8)
    return _save(figure, directory / f"by-{x}.png")


def _plot_rows(rows: Sequence[Row], metrics: Sequence[str], directory: Path) -> Path:
    """A value and its interval for each row, the rows from top to bottom as in the table."""
    import matplotlib.pyplot as plt

    names = [" ".join(map(str, row.labels.values())) for row in rows]
    size = (2.4 * len(metrics) + 1.2, 0.32 * len(rows) + 1)
    figure, axes = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for place, row in enumerate(rows):
            if metric in row.values:
                value = row.values[metric]
                axis.hlines(place, value.low, value.high, color=COLOURS[0], linewidth=2)
                axis.plot(value.mean, place, marker="o", color=COLOURS[0])
        axis.set_title(metric.replace("_", " "))
        axis.grid(alpha=0.3)
    axes[0][0].set_yticks(range(len(rows)), names)
    axes[0][0].invert_yaxis()
    return _save(figure, directory / "rows.png")


def _plot_pass(rows: Sequence[Row], x: str, directory: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    curves = []
    for row in rows:
        points = sorted((int(name[5:]), *value[:3]) for name, value in row.values.items() if name.startswith("pass@"))
        if len(points) > 1:
            curves.append(
                (
                    " ".join(f"{label} {value}" if label == x else str(value) for label, value in row.labels.items()),
                    points,
                )
            )
    if not curves:
        return []
    figure, axis = plt.subplots(figsize=(5, 3.6))
    for colour, (name, points) in zip(COLOURS * 9, curves, strict=False):
        k, value, low, high = zip(*points, strict=True)
        axis.plot(k, value, marker=".", color=colour, label=name or None)
        axis.fill_between(k, low, high, color=colour, alpha=0.12, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.set_xlabel("k")
    axis.set_title("pass@k")
    axis.grid(alpha=0.3)
    if any(name for name, _ in curves):
        axis.legend(frameon=False, fontsize=8)
    return [_save(figure, directory / "pass-at-k.png")]


def _save(figure, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
    return path


def plot_reliability(bins: Sequence[dict[str, Any]], path: Path, title: str = "held-out questions") -> None:
    """Fraction right against probability, with how many solutions each bin holds below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    full = [part for part in bins if part["count"]]
    figure, (above, below) = plt.subplots(2, 1, figsize=(4, 4.6), sharex=True, height_ratios=(3, 1))
    above.plot((0, 1), (0, 1), color="0.6", linewidth=1, linestyle="--")
    above.plot([part["probability"] for part in full], [part["right"] for part in full], marker="o", color=COLOURS[0])
    above.set(ylabel="fraction right", xlim=(0, 1), ylim=(0, 1), title=title)
    below.bar(
        [part["low"] for part in bins], [part["count"] for part in bins], 1 / BINS, align="edge", color=COLOURS[0]
    )
    below.set(xlabel="probability", ylabel="solutions")
    for axis in (above, below):
        axis.grid(alpha=0.3)
    _save(figure, path)
