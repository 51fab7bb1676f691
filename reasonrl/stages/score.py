"""`reasonrl score`: adds verdicts and rewards to samples."""

from typing import Annotated

import typer

from reasonrl import console, jsonl, provenance
from reasonrl.errors import UsageError
from reasonrl.records import Record, need_text, rewards_of
from reasonrl.rewards import exact
from reasonrl.stages import flags

REWARDS = ("exact",)

Reward = Annotated[list[str] | None, typer.Option("--reward", metavar="NAME", help="exact.", show_default="exact")]


def score(
    samples: flags.Records = None,
    reward: Reward = None,
    answer: flags.AnswerFlag = flags.Answer.strict,
    output: flags.OutputFile = "-",
    force: flags.Force = False,
    resume: flags.Resume = False,
    on_error: flags.OnErrorFlag = flags.OnError.fail,
    rejects: flags.Rejects = None,
) -> None:
    """Score samples: read each final answer, compare it with the problem's, add rewards to the record.

    Adds `correct`, `correct_strict`, `correct_flexible`, `extracted`, `rewards` and `reward`. A marked answer follows
    ####, A:, \\boxed{ or "the answer is"; docs/score.md tells how numbers are compared.

    \b
    Examples:
      reasonrl sample --k 4 | reasonrl score | jq -c '[.id, .k, .reward]'
      reasonrl score samples.jsonl --reward exact --answer flexible -o scored.jsonl
      reasonrl score samples.jsonl --on-error skip --rejects bad.jsonl > scored.jsonl
    """
    for name in reward or ["exact"]:
        if name not in REWARDS:
            raise UsageError(f"--reward {name}: there is {', '.join(REWARDS)}")
    flexible = answer == flags.Answer.flexible
    strict_count = flexible_count = unparseable = 0

    def visit(record: Record, _: bytes) -> None:
        nonlocal strict_count, flexible_count, unparseable
        need_text(record, "completion", "answer")
        verdict = exact.judge(record["completion"], record["answer"])
        correct = verdict.flexible if flexible else verdict.strict
        extracted = verdict.extracted_flexible if flexible else verdict.extracted_strict
        record |= {
            "correct": correct,
            "correct_strict": verdict.strict,
            "correct_flexible": verdict.flexible,
            "extracted": extracted,
            "rewards": rewards_of(record) | {"exact": int(correct)},
            "reward": int(correct),
        }
        out.write(record)
        strict_count += verdict.strict
        flexible_count += verdict.flexible
        unparseable += extracted is None

    readers = jsonl.inputs(samples or [])
    with provenance.open_output(output, force=force, resume=resume) as out:
        out.reads(readers)
        bad = jsonl.BadLines(on_error, rejects, used=[*(samples or []), output])
        total = jsonl.each(readers, visit, bad)
        out.counts = {
            "correct_strict": strict_count, "correct_flexible": flexible_count,
            "unparseable": unparseable, "skipped": bad.count,
        }  # fmt: skip
    if total == 0:
        console.warn("no samples came in")
    else:
        console.log(
            f"{total} samples: {strict_count / total:.1%} correct (strict), {flexible_count / total:.1%} (flexible), "
            f"{unparseable / total:.1%} without a {'' if flexible else 'marked '}answer"
        )
