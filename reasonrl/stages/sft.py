"""`reasonrl sft`: fine-tunes a model on solutions."""

from reasonrl.settings import SftSettings
from reasonrl.stages import training


def sft(settings: SftSettings) -> None:
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
    training.refuse_conditional(settings.model, "--model", "sft would train it without; take the weights before rcrl")
    frame = training.Frame(settings, settings.records)
    rows = frame.read_records(settings.records, settings.limit)

    from reasonrl.models.prompt_form import prompt_form
    from reasonrl.training.likelihood import train
    from reasonrl.training.sft import to_example

    policy = frame.load_language_model(settings.model)
    form = prompt_form(settings, policy.directory)
    examples = training.located(to_example, rows, policy, form, policy.tokenizer_hash)
    frame.announce(f"{len(examples)} examples")
    train(policy, examples, form, settings, frame.checkpoint, frame.about(policy))
    frame.print_path()
