"""`reasonrl sft`: fine-tunes a model on solutions."""

import os
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from reasonrl import console, jsonl, provenance
from reasonrl.errors import AlreadyDone, ReasonRLError, UsageError
from reasonrl.records import Record
from reasonrl.stages import flags
from reasonrl.stages.sample import Prompt, Stop
from reasonrl.tasks.prompts import prompt_form


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
Clip = Annotated[float, typer.Option("--clip", min=0, help="Largest norm of the gradient.")]
LoraRank = Annotated[int, typer.Option("--lora-rank", min=0, help="Train a LoRA adapter of this rank; 0: all weights.")]
MaxLength = Annotated[
    int | None, typer.Option("--max-length", min=2, help="Leave out longer examples.", show_default="the context")
]
SaveEvery = Annotated[int, typer.Option("--save-every", min=1, metavar="STEPS", help="Save state for --resume.")]
Checkpointing = Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory, a third more time.")]


def sft(
    records: flags.Records = None,
    model: flags.Model = "tiny",
    output: flags.Checkpoint = "",
    preset: PresetFlag = Preset.auto,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    final_lr: FinalRate = None,
    warmup: Warmup = 0.03,
    weight_decay: WeightDecay = 0.0,
    clip: Clip = 1.0,
    lora_rank: LoraRank = 0,
    max_length: MaxLength = None,
    prompt: Prompt = None,
    stop: Stop = None,
    seed: flags.Seed = 0,
    limit: flags.Limit = None,
    batch_tokens: flags.BatchTokens = None,
    gradient_checkpointing: Checkpointing = False,
    save_every: SaveEvery = 200,
    device: flags.Device = None,
    dtype: flags.DType = flags.Precision.auto,
    attn: flags.Attention = None,
    force: flags.Force = False,
    resume: flags.Resume = False,
) -> None:
    """Fine-tune a model on solutions; print the checkpoint's path.

    Samples train on their completion, problem records on their reference; the loss is on the completion only. The
    defaults are the paper's (4 epochs, batches of 128, 2e-5 to 2e-7), and a preset of their own for the tiny model.
    Several processes: accelerate launch -m reasonrl sft FILE -o DIR.

    \b
    Examples:
      reasonrl sft kept.jsonl -o runs/sft
      reasonrl data gsm8k -o train.jsonl && reasonrl sft train.jsonl --model ./smollm2 --lora-rank 8 -o runs/sft
      checkpoint=$(reasonrl sft kept.jsonl -o runs/ei1 --resume)
    """
    from reasonrl.models import checkpoint

    # `accelerate launch` numbers its processes in the environment; reading that here keeps torch out of the checks.
    is_main = int(os.environ.get("RANK", 0)) == 0
    if not output:
        raise UsageError("name the checkpoint's directory with --output")
    files = records or []
    provenance.refuse_unfinished(files)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and (not files or "-" in files):
        raise UsageError("under `accelerate launch` give files: the processes would share stdin")
    try:
        target = checkpoint.Checkpoint(output, force=force, resume=resume, main=is_main)
    except AlreadyDone:
        if is_main:
            print(output)
        raise
    rows, readers = _read(files, limit)

    from reasonrl.models.policy import load_policy
    from reasonrl.training.loop import Optimisation
    from reasonrl.training.sft import Settings, to_example, train

    if not is_main:
        console.set_up("sft", quiet=True)
    if preset is Preset.auto:
        preset = (
            Preset.tiny if model == "tiny" or checkpoint.remembered(model).get("preset") == "tiny" else Preset.paper
        )
    settings = Settings() if preset is Preset.paper else Settings(2, 64, Optimisation(learning_rate=1e-3))
    lr = lr if lr is not None else settings.optimisation.learning_rate
    settings = replace(
        settings,
        epochs=settings.epochs if epochs is None else epochs,
        batch_size=batch_size or settings.batch_size,
        optimisation=Optimisation(lr, lr / 100 if final_lr is None else final_lr, warmup, weight_decay, clip),
        batch_tokens=batch_tokens, max_length=max_length, lora_rank=lora_rank,
        gradient_checkpointing=gradient_checkpointing, save_every=save_every, seed=seed,
    )  # fmt: skip

    # LoRA keeps its base frozen, so the base may be held in the lower precision; weights that learn stay in fp32.
    held = dtype.value if lora_rank else ("fp32" if dtype is flags.Precision.auto else dtype.value)
    policy = load_policy(model, device="cpu" if device == "cpu" else None, dtype=held, attn=attn)
    form = prompt_form(prompt, stop, checkpoint.prompt_form(policy.directory))
    tokenizer_hash = policy.tokenizer_hash
    examples = [_at(place, to_example, row, policy, form, tokenizer_hash) for row, place in rows]
    console.log(
        f"{len(examples)} examples, {settings.epochs:g} epochs, batches of {settings.batch_size}, learning rate {lr:g} ({preset.value})"
    )
    about = {
        "base": {"name": model, "directory": policy.directory},
        "preset": preset.value,
        "inputs": [{"path": reader.name, "sha256": reader.sha256, "lines": reader.line_number} for reader in readers],
    }
    train(policy, examples, form, settings, target, device=device, dtype=dtype.value, about=about)
    if is_main:
        print(output)


def _at(place: str, make, record: Record, *more):
    """`make(record, …)`; an error of it says which line the record came from."""
    from reasonrl.errors import RecordError

    try:
        return make(record, *more)
    except RecordError as error:
        raise RecordError(f"{place}: {error}") from None


def _read(files: list[str], limit: int | None) -> tuple[list[tuple[Record, str]], list[jsonl.Reader]]:
    """Records with their places. Raises ReasonRLError if there are none; warns about test problems."""
    rows: list[tuple[Record, str]] = []
    readers = jsonl.inputs(files)
    for reader in readers:

        def visit(record: Record, _: bytes, reader: jsonl.Reader = reader) -> None:
            rows.append((record, f"{reader.name}:{reader.line_number}"))

        jsonl.each([reader], visit)
    if not rows:
        raise ReasonRLError("nothing to train on: the input is empty (did the stage before this one fail?)")
    tested = sum("/test/" in str(record.get("id", "")) for record, _ in rows)
    if tested:
        console.warn(f"{tested} of {len(rows)} records come from a test split")
    return rows[:limit], readers
