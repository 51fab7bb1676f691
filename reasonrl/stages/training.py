"""What the stages that train share: their flags, and what they do before anything heavy is imported."""

import os
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import typer

from reasonrl import console, jsonl, provenance
from reasonrl.errors import AlreadyDone, ReasonRLError, RecordError, UsageError
from reasonrl.models.checkpoint import Checkpoint, remembered
from reasonrl.records import Record
from reasonrl.stages import flags


class Preset(StrEnum):
    auto = "auto"
    paper = "paper"
    tiny = "tiny"


PresetFlag = Annotated[
    Preset, typer.Option("--preset", help="Settings to start from. auto: tiny for the bundled model, else paper.")
]
Epochs = Annotated[float | None, typer.Option("--epochs", min=0, help="Passes over the data.", show_default="preset")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Examples a step.", show_default="preset")]
LearningRate = Annotated[float | None, typer.Option("--lr", min=0, help="Peak learning rate.", show_default="preset")]
FinalRate = Annotated[
    float | None,
    typer.Option("--final-lr", min=0, help="Learning rate at the end.", show_default="a hundredth of --lr"),
]
Warmup = Annotated[float, typer.Option("--warmup", min=0, max=1, help="Fraction of the steps that warm up.")]
WeightDecay = Annotated[float, typer.Option("--weight-decay", min=0, help="AdamW's decoupled weight decay.")]
Clip = Annotated[float, typer.Option("--clip", min=0, help="Largest norm of the gradient; 0: any.")]
LoraRank = Annotated[int, typer.Option("--lora-rank", min=0, help="Train a LoRA adapter of this rank; 0: all weights.")]
MaxLength = Annotated[
    int | None, typer.Option("--max-length", min=2, help="Leave out longer examples.", show_default="the context")
]
SaveEvery = Annotated[int, typer.Option("--save-every", min=1, metavar="STEPS", help="Save state for --resume.")]
Checkpointing = Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory, a third more time.")]


def begin(
    files: list[str] | None, output: str, limit: int | None, *, force: bool, resume: bool
) -> tuple[Checkpoint, list[tuple[Record, str]], list[jsonl.Reader], bool]:
    """The checkpoint to be, the records with their places, their readers, and whether this is the first process.

    Refuses what is not whole. With `resume` a finished checkpoint is named once more, and AlreadyDone raised.
    """
    provenance.refuse_unfinished(files or [])
    if processes() > 1 and (not files or "-" in files):
        raise UsageError("under `accelerate launch` give files: the processes would share stdin")
    target, is_main = _target(output, force=force, resume=resume)
    return target, *read(files or [], limit), is_main


def begin_fused(
    files: list[str], task: str | None, output: str, *, force: bool, resume: bool
) -> tuple[Checkpoint, bool]:
    """`begin` for a stage that takes problems: the checkpoint to be, and whether this is the first process."""
    if processes() > 1 and ("-" in files or not (files or task)):
        raise UsageError("under `accelerate launch` give --task or files: the processes would share stdin")
    return _target(output, force=force, resume=resume)


def processes() -> int:
    """How many of this stage `accelerate launch` has started."""
    return int(os.environ.get("WORLD_SIZE", 1))


def _target(output: str, *, force: bool, resume: bool) -> tuple[Checkpoint, bool]:
    # `accelerate launch` numbers its processes in the environment; reading that here keeps torch out of the checks.
    is_main = int(os.environ.get("RANK", 0)) == 0
    if not output:
        raise UsageError("name the checkpoint's directory with --output")
    try:
        return Checkpoint(output, force=force, resume=resume, main=is_main), is_main
    except AlreadyDone:
        if is_main:
            print(output)
        raise


def at(place: str, make: Callable[..., Any], record: Record, *more: Any) -> Any:
    """`make(record, …)`; an error of it says which line the record came from."""
    try:
        return make(record, *more)
    except RecordError as error:
        raise RecordError(f"{place}: {error}") from None


def refuse_conditional(model: str, flag: str, instead: str) -> None:
    """Raises UsageError for a policy that was trained to read labels, where it would be used without."""
    if remembered(model).get("labels"):
        raise UsageError(f"{flag} {model} reads a label before each step (`reasonrl rcrl` made it): {instead}")


def choose(preset: Preset, model: str) -> Preset:
    """auto: tiny for the bundled model and what was trained from it, else the paper's."""
    if preset is not Preset.auto:
        return preset
    return Preset.tiny if model == "tiny" or remembered(model).get("preset") == "tiny" else Preset.paper


def for_likelihood(
    preset: Preset, *, epochs: float | None, batch_size: int | None, lr: float | None, final_lr: float | None,
    warmup: float, weight_decay: float, clip: float, **more: Any,
):  # fmt: skip
    """The `likelihood.Settings` of `sft` and `rcrl`: those of the preset, where no flag says otherwise. `more` are
    fields that no preset has anything to say of."""
    from reasonrl.training.likelihood import Settings
    from reasonrl.training.loop import Optimisation

    own = Settings() if preset is Preset.paper else Settings(2, 32, Optimisation(learning_rate=1e-3))
    lr = lr if lr is not None else own.optimisation.learning_rate
    return replace(
        own,
        epochs=own.epochs if epochs is None else epochs,
        batch_size=batch_size or own.batch_size,
        optimisation=Optimisation(lr, lr / 100 if final_lr is None else final_lr, warmup, weight_decay, clip),
        **more,
    )


def held_in(dtype: flags.Precision, lora_rank: int) -> str:
    """The precision of the weights. LoRA keeps its base frozen, so that may be held in the lower one; weights that
    learn are in fp32, whatever they are calculated with: in bf16 the steps of RL are too small to change them."""
    return dtype.value if lora_rank else "fp32"


def about_inputs(readers: list[jsonl.Reader]) -> list[dict[str, Any]]:
    """What a checkpoint's marker says of the files it was trained on."""
    return [{"path": reader.name, "sha256": reader.sha256, "lines": reader.line_number} for reader in readers]


def read(files: list[str], limit: int | None) -> tuple[list[tuple[Record, str]], list[jsonl.Reader]]:
    """Records with their places. Raises ReasonRLError if there are none; warns about test problems."""
    rows: list[tuple[Record, str]] = []
    readers = jsonl.inputs(files)
    for reader in readers:

        def visit(record: Record, _: bytes, reader: jsonl.Reader = reader) -> None:
            rows.append((record, f"{reader.name}:{reader.line_number}"))

        jsonl.each([reader], visit)
        if reader.torn:
            place = f"{reader.name}:{reader.line_number}"
            raise ReasonRLError(f"{place}: the last line has no newline: was its writer cut off?")
    if not rows:
        raise ReasonRLError("nothing to train on: the input is empty (did the stage before this one fail?)")
    provenance.has_read(readers)
    tested = sum("/test/" in str(record.get("id", "")) for record, _ in rows)
    if tested:
        console.warn(f"{tested} of {len(rows)} records come from a test split")
    return rows[:limit], readers
