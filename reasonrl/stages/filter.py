"""`reasonrl filter`: keeps the samples worth training on."""

from typing import Any

from reasonrl import console
from reasonrl.errors import RecordError
from reasonrl.grading import equations
from reasonrl.io import jsonl, provenance
from reasonrl.io.records import Record, need_text
from reasonrl.settings import FilterSettings


def filter_(settings: FilterSettings) -> None:
    """Keep samples by reward, each solution of a question once.

    Records pass through byte for byte. Several files are merged in the order given, the first of equal solutions kept:
    D_i = R_i ∪ D_(i-1) of Expert Iteration is `filter round-i.jsonl kept-(i-1).jsonl`. Memory grows with the
    deduplication keys only.

    \b
    Examples:
      reasonrl filter scored.jsonl --min-reward 1 -o kept.jsonl
      reasonrl filter round2.jsonl kept1.jsonl --min-reward 1 --dedup equations --per-question 4 -o kept2.jsonl
    """
    keep = Selection(settings)
    readers = jsonl.inputs(settings.samples)
    with provenance.open_output(provenance.Run(settings)) as out:

        def visit(record: Record, line: bytes) -> None:
            if keep(record):
                out.write_line(line)

        out.reads(readers)
        bad = jsonl.BadLines(settings.on_error, settings.rejects, used=[*settings.samples, settings.output])
        total = jsonl.each(readers, visit, bad)
        out.counts = {"read": total, "skipped": bad.count}
    console.log(f"kept {out.count} of {total} samples")


class Selection:
    """Which records pass. It remembers the solutions that have passed, and how many of each question."""

    def __init__(self, settings: FilterSettings):
        self.settings = settings
        self.seen: set[int] = set()
        self.kept_of: dict[str, int] = {}

    def __call__(self, record: Record) -> bool:
        """Raises RecordError for a record that lacks what the settings look at."""
        settings = self.settings
        if settings.min_reward is not None:
            reward: Any = record.get("reward")
            if type(reward) not in (int, float):
                raise RecordError('no number in field "reward" (score the samples first)')
            if reward < settings.min_reward:
                return False
        need_text(record, "completion")
        if settings.dedup != "none" or settings.per_question:
            need_text(record, "id")
        if settings.dedup != "none":
            key = self._key(record)
            if key in self.seen:
                return False
            self.seen.add(key)
        if settings.per_question:
            count = self.kept_of.get(record["id"], 0)
            if count == settings.per_question:
                return False
            self.kept_of[record["id"]] = count + 1
        return True

    def _key(self, record: Record) -> int:
        """Equal for equal solutions. Equal work with another verdict is another solution: its last line differs. 64
        bits of a keyed hash stand for the text: among 10⁸ solutions a false match has a chance of 0.03%."""
        solution = record["completion"]
        key = solution.strip() if self.settings.dedup == "text" else equations.chain(solution)
        return hash((record["id"], key, record.get("correct")))
