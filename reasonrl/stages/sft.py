"""`reasonrl sft`: fine-tunes a model on solutions."""

from reasonrl import console
from reasonrl.stages import flags, training
from reasonrl.stages.sample import Prompt, Stop
from reasonrl.tasks.prompts import prompt_form


def sft(
    records: flags.Records = None,
    model: flags.Model = "tiny",
    output: flags.Checkpoint = "",
    preset: training.PresetFlag = training.Preset.auto,
    epochs: training.Epochs = None,
    batch_size: training.BatchSize = None,
    lr: training.LearningRate = None,
    final_lr: training.FinalRate = None,
    warmup: training.Warmup = 0.03,
    weight_decay: training.WeightDecay = 0.0,
    clip: training.Clip = 1.0,
    lora_rank: training.LoraRank = 0,
    max_length: training.MaxLength = None,
    prompt: Prompt = None,
    stop: Stop = None,
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
    training.refuse_conditional(model, "--model", "sft would train it without; take the weights before rcrl")
    target, rows, readers, is_main = training.begin(records, output, limit, force=force, resume=resume)

    from reasonrl.models import checkpoint
    from reasonrl.models.policy import load_policy
    from reasonrl.training.likelihood import train
    from reasonrl.training.sft import to_example

    if not is_main:
        console.set_up("sft", quiet=True)
    preset = training.choose(preset, model)
    settings = training.for_likelihood(
        preset, epochs=epochs, batch_size=batch_size, lr=lr, final_lr=final_lr, warmup=warmup,
        weight_decay=weight_decay, clip=clip, batch_tokens=batch_tokens, max_length=max_length, lora_rank=lora_rank,
        gradient_checkpointing=gradient_checkpointing, save_every=save_every, seed=seed,
    )  # fmt: skip

    held = training.held_in(dtype, lora_rank)
    policy = load_policy(model, device="cpu" if device == "cpu" else None, dtype=held, attn=attn)
    form = prompt_form(prompt, stop, checkpoint.prompt_form(policy.directory))
    tokenizer_hash = policy.tokenizer_hash
    examples = [training.at(place, to_example, row, policy, form, tokenizer_hash) for row, place in rows]
    console.log(
        f"{len(examples)} examples, {settings.epochs:g} epochs, batches of {settings.batch_size}, "
        f"learning rate {settings.optimisation.learning_rate:g} ({preset.value})"
    )
    about = {
        "base": {"name": model, "directory": policy.directory},
        "preset": preset.value,
        "inputs": training.about_inputs(readers),
    }
    train(policy, examples, form, settings, target, device=device, dtype=dtype.value, about=about)
    if is_main:
        print(output)
