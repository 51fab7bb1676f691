"""`reasonrl filter`: keeps the samples worth training on."""

import math
from enum import StrEnum
from typing import Annotated

import typer

from reasonrl import console, jsonl, provenance
from reasonrl.errors import RecordError, UsageError
from reasonrl.records import Record, need_text
from reasonrl.stages import flags
from reasonrl.tasks import equations


class Dedup(StrEnum):
    text = "text"
    equations = "equations"
    none = "none"


MinReward = Annotated[
    float | None,
    typer.Option("--min-reward", metavar="R", help="Keep rewards of at least R.", show_default="no threshold"),
]
DedupFlag = Annotated[Dedup, typer.Option("--dedup", help="Keep one of each solution: by text, or chain of equations.")]
PerQuestion = Annotated[
    int | None,
    typer.Option("--per-question", min=1, metavar="N", help="Keep at most N a question.", show_default="all"),
]


def filter_(
    samples: flags.Records = None,
    min_reward: MinReward = None,
    dedup: DedupFlag = Dedup.text,
    per_question: PerQuestion = None,
    output: flags.OutputFile = "-",
    force: flags.Force = False,
    resume: flags.Resume = False,
    on_error: flags.OnErrorFlag = flags.OnError.fail,
    rejects: flags.Rejects = None,
) -> None:
    """Keep samples by reward, each solution of a question once.

    Records pass through byte for byte. Several files are merged in the order given, the first of equal solutions kept:
    D_i = R_i ∪ D_(i-1) of Expert Iteration is `filter round-i.jsonl kept-(i-1).jsonl`. Memory grows with the
    deduplication keys only.

    \b
    Examples:
      reasonrl filter scored.jsonl --min-reward 1 -o kept.jsonl
      reasonrl filter round2.jsonl kept1.jsonl --min-reward 1 --dedup equations --per-question 4 -o kept2.jsonl
    """
    if min_reward is not None and math.isnan(min_reward):
        raise UsageError("--min-reward nan: want a number")
    seen: set[int] = set()
    kept_of: dict[str, int] = {}

    def visit(record: Record, line: bytes) -> None:
        if min_reward is not None:
            reward = record.get("reward")
            if type(reward) not in (int, float):
                raise RecordError('no number in field "reward" (score the samples first)')
            if reward < min_reward:
                return
        need_text(record, "completion")
        if dedup is not Dedup.none or per_question:
            need_text(record, "id")
        if dedup is not Dedup.none:
            solution = record["completion"]
            key = solution.strip() if dedup is Dedup.text else equations.chain(solution)
            # Equal work with another verdict is another solution: its last line differs. 64 bits of a keyed hash stand
            # for the text: among 10⁸ solutions a false match has a chance of 0.03%.
            key = hash((record["id"], key, record.get("correct")))
            if key in seen:
                return
            seen.add(key)
        if per_question:
            count = kept_of.get(record["id"], 0)
            if count == per_question:
                return
            kept_of[record["id"]] = count + 1
        out.write_line(line)

    readers = jsonl.inputs(samples or [])
    with provenance.open_output(output, force=force, resume=resume) as out:
        out.reads(readers)
        bad = jsonl.BadLines(on_error, rejects, used=[*(samples or []), output])
        total = jsonl.each(readers, visit, bad)
        out.counts = {"read": total, "skipped": bad.count}
    console.log(f"kept {out.count} of {total} samples")
