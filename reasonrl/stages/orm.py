"""`reasonrl orm`: trains an outcome reward model on scored samples."""

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from reasonrl import console
from reasonrl.errors import RecordError, UsageError
from reasonrl.records import Record, need_text
from reasonrl.stages import flags, training
from reasonrl.stages.sample import Prompt


class Prefixes(StrEnum):
    all = "all"
    final = "final"


PrefixesFlag = Annotated[Prefixes, typer.Option("--prefixes", help="Learn at every step's end, or at the last only.")]
LoraLayers = Annotated[
    int | None,
    typer.Option("--lora-layers", min=1, metavar="N", help="Adapt the last N layers only: faster.", show_default="all"),
]
LmWeight = Annotated[
    float, typer.Option("--lm-weight", min=0, metavar="W", help="Go on learning to write right solutions, by so much.")
]
SharePrompts = Annotated[
    bool,
    typer.Option("--share-prompts", help="Read each question once for all its solutions: faster."),
]
HeldOut = Annotated[
    float, typer.Option("--held-out", min=0, max=0.9, metavar="F", help="Fraction of the questions kept for judging.")
]


def orm(
    scored: flags.Records = None,
    model: flags.Model = "tiny",
    output: flags.Checkpoint = "",
    prefixes: PrefixesFlag = Prefixes.all,
    held_out: HeldOut = 0.1,
    lm_weight: LmWeight = 0.0,
    share_prompts: SharePrompts = False,
    preset: training.PresetFlag = training.Preset.auto,
    epochs: training.Epochs = None,
    batch_size: training.BatchSize = None,
    lr: training.LearningRate = None,
    final_lr: training.FinalRate = None,
    warmup: training.Warmup = 0.03,
    weight_decay: training.WeightDecay = 0.0,
    clip: training.Clip = 1.0,
    lora_rank: training.LoraRank = 0,
    lora_layers: LoraLayers = None,
    max_length: training.MaxLength = None,
    prompt: Prompt = None,
    seed: flags.Seed = 0,
    limit: flags.Limit = None,
    batch_tokens: flags.BatchTokens = None,
    gradient_checkpointing: training.Checkpointing = False,
    save_every: training.SaveEvery = 200,
    device: flags.Device = None,
    dtype: flags.DType = flags.Precision.auto,
    attn: flags.Attention = None,
    force: flags.Force = False,
    resume: flags.Resume = False,
) -> None:
    """Train an outcome reward model; print the checkpoint's path.

    The model learns p(final answer correct | question, steps so far) from the field `correct` of scored samples,
    starting from a policy's weights, and is judged on questions that it did not learn from: held_out.json and
    reliability.png in the checkpoint. `score --reward orm --orm CHECKPOINT` uses it. docs/orm.md explains what is
    learnt and every number.

    \b
    Examples:
      reasonrl sample --task mini --k 8 | reasonrl score -o scored.jsonl && reasonrl orm scored.jsonl -o runs/orm
      reasonrl orm scored.jsonl --model ./smollm2 --lora-rank 16 --held-out 0.33 -o runs/orm
    """
    training.refuse_conditional(model, "--model", "solutions have none; take the weights before rcrl")
    if lora_layers and not lora_rank:
        raise UsageError("--lora-layers says where an adapter goes; give it a --lora-rank")
    if share_prompts and attn not in (None, "sdpa"):
        raise UsageError(f"--share-prompts needs --attn sdpa: {attn} does not take its mask")
    target, rows, readers, is_main = training.begin(scored, output, limit, force=force, resume=resume)

    from reasonrl.models import checkpoint
    from reasonrl.models.verifier import new_verifier
    from reasonrl.rewards.orm import Encoder
    from reasonrl.tasks.prompts import prompt_form
    from reasonrl.training.loop import Optimisation
    from reasonrl.training.orm import Example, Settings, train

    if not is_main:
        console.set_up("orm", quiet=True)
    preset = training.choose(preset, model)
    settings = Settings() if preset is training.Preset.paper else Settings(2, 64, Optimisation(1e-3))
    lr = lr if lr is not None else settings.optimisation.learning_rate
    settings = replace(
        settings,
        epochs=settings.epochs if epochs is None else epochs,
        batch_size=batch_size or settings.batch_size,
        optimisation=Optimisation(lr, lr / 100 if final_lr is None else final_lr, warmup, weight_decay, clip),
        prefixes=prefixes.value, held_out=held_out, batch_tokens=batch_tokens, max_length=max_length,
        lora_rank=lora_rank, lora_layers=lora_layers, gradient_checkpointing=gradient_checkpointing,
        save_every=save_every, seed=seed, lm_weight=lm_weight, share_prompts=share_prompts,
    )  # fmt: skip

    held = training.held_in(dtype, lora_rank)
    verifier = new_verifier(
        model, device="cpu" if device == "cpu" else None, dtype=held, attn=attn, writes=lm_weight > 0
    )
    form = prompt_form(prompt, None, checkpoint.prompt_form(verifier.directory))
    encode = Encoder(verifier, form)

    def example(record: Record) -> Example:
        need_text(record, "id", "completion")
        if type(record.get("correct")) is not bool:
            raise RecordError('no verdict in field "correct" (pass the samples through `reasonrl score` first)')
        return Example(record["id"], encode(record), record["correct"])

    examples = [training.at(place, example, row) for row, place in rows]
    right = sum(example.label for example in examples) / len(examples)
    console.log(
        f"{len(examples)} solutions, {right:.1%} right, {settings.epochs:g} epochs, batches of {settings.batch_size}, "
        f"learning rate {lr:g} ({preset.value})"
    )
    about = {
        "base": {"name": model, "directory": verifier.directory},
        "preset": preset.value,
        "inputs": training.about_inputs(readers),
    }
    report = train(verifier, examples, form, settings, target, device=device, dtype=dtype.value, about=about)
    if is_main:
        if report:
            _show(report)
        print(output)


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
