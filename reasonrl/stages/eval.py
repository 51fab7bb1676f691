"""`reasonrl eval`: maj@k, pass@k and rerank@k of scored samples."""

import contextlib
import math
from collections.abc import Sequence

from reasonrl import console
from reasonrl.errors import ReasonRLError, RecordError, UsageError
from reasonrl.grading import equations
from reasonrl.io import jsonl, provenance
from reasonrl.io.records import Record, need_text, rewards_of
from reasonrl.settings import EvalSettings

DRAWN = ("model", "temperature", "top_p", "condition", "prompt_hash")  # how a sample was; the hash: exemplars and form
IDENTITY = ("id", "k", "seed", *DRAWN)  # what tells a sample from others

OWN_FIELDS = {
    "metrics", "questions", "samples", "greedy", "unparseable", "truncated", "unique_solutions", "unique_correct",
}  # fmt: skip


def eval_(settings: EvalSettings) -> None:
    """Evaluate scored samples; print one metrics record.

    A table goes to stderr. maj@1 comes from greedy records (temperature 0), everything @k from the others; give both
    files at once. pass@k is the unbiased estimator. Each value has a 95% bootstrap interval over questions.
    docs/eval.md has the formulas.

    \b
    Examples:
      reasonrl eval greedy.jsonl sampled.jsonl --set algorithm=ei --set round=2 -o ei2.json
      reasonrl sample --k 8 | reasonrl score | reasonrl eval | jq '.metrics[] | select(.name == "pass")'
    """
    labels: Record = parse_labels(settings.labels)
    samples = Samples()
    readers = jsonl.inputs(settings.scored)
    with provenance.open_output(provenance.Run(settings)) as out:
        out.reads(readers)
        used = [*settings.scored, settings.output]
        jsonl.each(readers, samples.add, jsonl.BadLines(settings.on_error, settings.rejects, used=used))
        if not samples.total:
            raise ReasonRLError("no scored samples came in")
        samples.warn()
        record = labels | samples.metrics(settings.seed)
        out.write(record)
    title = " ".join(f"{name}={value}" for name, value in labels.items())
    rows = [
        (f"{m['name']}@{m['k']}", f"{m['value']:.3f}", f"[{m['low']:.3f}, {m['high']:.3f}]", str(m["n"]))
        for m in record["metrics"]
    ]
    console.table(title, ("metric", "value", "95% interval", "questions"), rows)


class Samples:
    """Scored samples by question, greedy ones apart from the others."""

    def __init__(self) -> None:
        from reasonrl.evaluation.metrics import GradedSample  # brings numpy, which `--help` need not wait for

        self.make = GradedSample
        self.greedy: dict[str, tuple[GradedSample, list]] = {}
        self.sampled: dict[str, list[GradedSample]] = {}
        self.solutions: dict[str, dict[str, bool]] = {}  # of each question: chain of equations → whether it is right
        self.total = self.unparseable = self.truncated = 0
        self.drawn: dict[str, dict[str, None]] = {name: {} for name in DRAWN}
        self._seen: set[int] = set()

    def add(self, record: Record, _: bytes = b"") -> None:
        """Raises RecordError for a record that is no scored sample, or came before."""
        _check(record)
        self._refuse_repeated(record)
        sample = self.make(record.get("extracted"), record["correct"], rewards_of(record).get("orm"))
        self.total += 1
        self.unparseable += sample.extracted is None
        self.truncated += record.get("finish") == "length"
        if record["temperature"] == 0:
            how = [record.get(name) for name in DRAWN]
            if self.greedy.setdefault(record["id"], (sample, how))[1] != how:
                raise RecordError(
                    f"a second greedy answer to {record['id']!r}, of another model, prompt or condition; "
                    "give each a run of `eval` of its own"
                )
            return
        for name in DRAWN:
            self.drawn[name][str(record.get(name))] = None
        self.sampled.setdefault(record["id"], []).append(sample)
        solutions = self.solutions.setdefault(record["id"], {})
        chain = equations.chain(record["completion"])
        solutions[chain] = solutions.get(chain, False) or sample.correct

    def _refuse_repeated(self, record: Record) -> None:
        if not ("k" in record and "seed" in record):  # records made by hand may lack them, and may then be alike
            return
        # 64 bits of a keyed hash stand for the sample, as in `filter`.
        key = hash(jsonl.dumps([record.get(name) for name in IDENTITY]))
        if key in self._seen:
            raise RecordError(
                f"sample k = {record['k']} of {record['id']!r} came in before (is a file given twice, or a shard?)"
            )
        self._seen.add(key)

    def warn(self) -> None:
        """Says where the samples are not all alike."""
        counts = sorted({len(group) for group in self.sampled.values()})
        if len(counts) > 1:
            console.warn(f"questions have {counts[0]} to {counts[-1]} samples each; metrics go up to k = {counts[0]}")
        for name, values in self.drawn.items():
            if len(values) > 1:
                console.warn(f"sampled records differ in {name} and count as one: {', '.join(sorted(values))}")

    def metrics(self, seed: int) -> Record:
        """The metrics record, but for its labels."""
        from reasonrl.evaluation import metrics

        greedy = metrics.greedy_metrics([sample for sample, _ in self.greedy.values()], seed)
        chains = self.solutions.values()
        questions = len(chains)
        return {
            "metrics": greedy + metrics.sampled_metrics(list(self.sampled.values()), seed),
            "questions": len({*self.greedy, *self.sampled}),
            "samples": sum(map(len, self.sampled.values())),
            "greedy": len(self.greedy),
            "unparseable": self.unparseable / self.total,
            "truncated": self.truncated / self.total,
            "unique_solutions": sum(map(len, chains)) / questions if questions else None,
            "unique_correct": sum(sum(c.values()) for c in chains) / questions if questions else None,
        }


def _check(record: Record) -> None:
    """Raises RecordError for what is no scored sample."""
    need_text(record, "id", "completion")
    if type(record.get("temperature")) not in (int, float):
        raise RecordError('no number in field "temperature" (0 says that a sample is greedy)')
    if type(record.get("correct")) is not bool:
        raise RecordError('no verdict in field "correct" (pass the samples through `reasonrl score` first)')
    if "extracted" not in record or type(record["extracted"]) not in (str, type(None)):
        raise RecordError('field "extracted" is neither a string nor null')


def parse_labels(pairs: Sequence[str]) -> dict[str, int | float | str]:
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
                if math.isfinite(number := kind(text)):  # JSON has no nan, no inf
                    labels[name] = number
    return labels
