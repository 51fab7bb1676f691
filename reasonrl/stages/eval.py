"""`reasonrl eval`: maj@k, pass@k and rerank@k of scored samples."""

import contextlib
from typing import Annotated

import typer

from reasonrl import console, jsonl, provenance, stats
from reasonrl.errors import ReasonRLError, RecordError, UsageError
from reasonrl.records import Record, need, need_text
from reasonrl.stages import flags
from reasonrl.stats import Bootstrap, Judged
from reasonrl.tasks import equations

Label = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="A label for the metrics record; may be repeated.", show_default=False
    ),
]

OWN_FIELDS = {
    "metrics",
    "questions",
    "samples",
    "greedy",
    "unparseable",
    "truncated",
    "unique_solutions",
    "unique_correct",
}


def eval_(
    scored: flags.Records = None,
    set_: Label = None,
    seed: flags.Seed = 0,
    output: flags.OutputFile = "-",
    force: flags.Force = False,
    resume: flags.Resume = False,
    on_error: flags.OnErrorFlag = flags.OnError.fail,
    rejects: flags.Rejects = None,
) -> None:
    """Evaluate scored samples: one metrics record on stdout, a table on stderr.

    maj@1 comes from greedy records (temperature 0), everything @k from the others; give both files at once. pass@k is
    the unbiased estimator. Each value has a 95% bootstrap interval over questions. docs/eval.md has the formulas.

    \b
    Examples:
      reasonrl eval greedy.jsonl sampled.jsonl --set algorithm=ei --set round=2 -o ei2.json
      reasonrl sample --k 8 | reasonrl score | reasonrl eval | jq '.metrics[] | select(.name == "pass")'
    """
    labels = _labels(set_ or [])
    greedy: dict[str, Judged] = {}
    sampled: dict[str, list[Judged]] = {}
    chains: dict[str, dict[str, bool]] = {}
    unparseable = truncated = total = 0

    def visit(record: Record, _: bytes) -> None:
        nonlocal unparseable, truncated, total
        need_text(record, "id", "completion")
        need(record, "temperature")
        if type(record.get("correct")) is not bool:
            raise RecordError('no verdict in field "correct" (pass the samples through `reasonrl score` first)')
        judged = Judged(record.get("extracted"), record["correct"], (record.get("rewards") or {}).get("orm"))
        total += 1
        unparseable += judged.extracted is None
        truncated += record.get("finish") == "length"
        if record["temperature"] == 0:
            greedy.setdefault(record["id"], judged)
        else:
            sampled.setdefault(record["id"], []).append(judged)
            solutions = chains.setdefault(record["id"], {})
            solution = equations.chain(record["completion"])
            solutions[solution] = solutions.get(solution, False) or judged.correct

    with provenance.open_output(output, force=force, resume=resume) as out:
        out.inputs = jsonl.inputs(scored)
        jsonl.each(out.inputs, visit, jsonl.BadLines(on_error, rejects))
        if not total:
            raise ReasonRLError("no scored samples came in")
        metrics = _greedy_metrics(greedy, seed) + _sampled_metrics(sampled, seed)
        found = len(chains) or 1
        out.write(
            labels
            | {
                "metrics": metrics,
                "questions": len({*greedy, *sampled}),
                "samples": sum(map(len, sampled.values())),
                "greedy": len(greedy),
                "unparseable": unparseable / total,
                "truncated": truncated / total,
                "unique_solutions": sum(map(len, chains.values())) / found if chains else None,
                "unique_correct": sum(sum(c.values()) for c in chains.values()) / found if chains else None,
            }
        )
    title = " ".join(f"{name}={value}" for name, value in labels.items())
    rows = [
        (f"{m['name']}@{m['k']}", f"{m['value']:.3f}", f"[{m['low']:.3f}, {m['high']:.3f}]", str(m["n"]))
        for m in metrics
    ]
    console.table(title, ("metric", "value", "95% interval", "questions"), rows)


def _labels(pairs: list[str]) -> dict[str, int | float | str]:
    """`["round=2", "algorithm=ei"]` → {"round": 2, "algorithm": "ei"}: numbers become numbers."""
    labels: dict[str, int | float | str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise UsageError(f"--set {pair}: want NAME=VALUE")
        if name in OWN_FIELDS:
            raise UsageError(f"--set {pair}: the record has a field {name!r} of its own")
        labels[name] = text
        for kind in (float, int):
            with contextlib.suppress(ValueError):
                labels[name] = kind(text)
    return labels


def _metric(name: str, k: int, values: list[float], bootstrap: Bootstrap) -> Record:
    return {"name": name, "k": k} | bootstrap.estimate(values)._asdict()


def _greedy_metrics(greedy: dict[str, Judged], seed: int) -> list[Record]:
    if not greedy:
        return []
    return [_metric("maj", 1, [judged.correct for judged in greedy.values()], Bootstrap(len(greedy), seed))]


def _sampled_metrics(sampled: dict[str, list[Judged]], seed: int) -> list[Record]:
    """maj, pass and rerank at powers of two and at the number sampled; questions with fewer samples set that number."""
    if not sampled:
        return []
    groups = list(sampled.values())
    most = min(map(len, groups))
    if most < max(map(len, groups)):
        console.warn(f"questions have {most} to {max(map(len, groups))} samples each; metrics go up to k = {most}")
    bootstrap = Bootstrap(len(groups), seed)
    correct = [sum(judged.correct for judged in group) for group in groups]
    scored = all(judged.orm is not None for group in groups for judged in group)
    metrics = []
    for k in stats.powers_up_to(most):
        if k > 1:
            metrics.append(_metric("maj", k, [stats.maj_at_k(group, k) for group in groups], bootstrap))
            if scored:
                metrics.append(_metric("rerank", k, [stats.rerank_at_k(group, k) for group in groups], bootstrap))
        passes = [stats.pass_at_k(len(group), c, k) for group, c in zip(groups, correct, strict=True)]
        metrics.append(_metric("pass", k, passes, bootstrap))
    return sorted(metrics, key=lambda m: (m["name"], m["k"]))
