"""`reasonrl orm`: trains an outcome reward model on scored samples."""

from reasonrl import console
from reasonrl.errors import RecordError, UsageError
from reasonrl.io.records import Record, need_text
from reasonrl.settings import OrmSettings
from reasonrl.stages import training


def orm(settings: OrmSettings) -> None:
    """Train an outcome reward model; print the checkpoint's path.

    The model learns p(final answer correct | question, steps so far) from the field `correct` of scored samples,
    starting from a policy's weights, and is evaluated on questions that it did not learn from: held_out.json and
    reliability.png in the checkpoint. `score --reward orm --orm CHECKPOINT` uses it. docs/orm.md explains what is
    learned and every number.

    \b
    Examples:
      reasonrl sample --task mini --k 8 | reasonrl score -o scored.jsonl && reasonrl orm scored.jsonl -o runs/orm
      reasonrl orm scored.jsonl --model ./smollm2 --lora-rank 16 --held-out 0.33 -o runs/orm
    """
    training.refuse_conditional(settings.model, "--model", "solutions have none; take the weights before rcrl")
    if settings.lora_layers and not settings.lora_rank:
        raise UsageError("--lora-layers says where an adapter goes; give it a --lora-rank")
    if settings.share_prompts and settings.attn not in (None, "sdpa"):
        raise UsageError(f"--share-prompts needs --attn sdpa: {settings.attn} does not take its mask")
    frame = training.Frame(settings, settings.scored)
    rows = frame.read_records(settings.scored, settings.limit)

    from reasonrl.models.prompt_form import prompt_form
    from reasonrl.models.reward_model import new_reward_model
    from reasonrl.rewards.reward_model import SolutionEncoder
    from reasonrl.training.orm.examples import GradedSolution
    from reasonrl.training.orm.trainer import train

    reward_model = new_reward_model(
        settings.model, device=settings.weights_device, dtype=settings.weights_dtype,
        attn=settings.attn, writes=settings.lm_weight > 0,
    )  # fmt: skip
    form = prompt_form(settings, reward_model.directory)
    encode = SolutionEncoder(reward_model, form)

    def example(record: Record) -> GradedSolution:
        need_text(record, "id", "completion")
        if type(record.get("correct")) is not bool:
            raise RecordError('no verdict in field "correct" (pass the samples through `reasonrl score` first)')
        return GradedSolution(record["id"], encode(record), record["correct"])

    examples = training.located(example, rows)
    right = sum(example.label for example in examples) / len(examples)
    frame.announce(f"{len(examples)} solutions, {right:.1%} right")
    report = train(reward_model, examples, form, settings, frame.checkpoint, frame.about(reward_model))
    if frame.is_main and report:
        _show(report)
    frame.print_path()


def _show(report: Record) -> None:
    """The held-out report as a table: whole solutions, then prefixes by the number of their steps."""
    rows = [
        ("whole solutions", report["solutions"], report["accuracy"], report["auc"]),
        *((f"after step {row['step']}", row["n"], row["accuracy"], row["auc"]) for row in report["by_step"]),
    ]
    console.log(
        f"{report['questions']} held-out questions, {report['right']:.1%} of their solutions right: AUC "
        f"{report['auc']:.3f} [{report['auc_low']:.3f}, {report['auc_high']:.3f}], within a question "
        f"{report['auc_within']:.3f}, calibration error {report['ece']:.3f}"
    )
    console.table(
        "", ("", "n", "accuracy", "AUC"),
        [(name, str(n), f"{accuracy:.3f}", f"{auc:.3f}") for name, n, accuracy, auc in rows],
    )  # fmt: skip
