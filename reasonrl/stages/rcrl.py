"""`reasonrl rcrl`: labels the steps of a policy's solutions with what they lead to, and learns behind the labels."""

from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from enum import StrEnum
from typing import Annotated, Any

import typer

from reasonrl import console, jsonl, provenance
from reasonrl.errors import AlreadyDone, UsageError
from reasonrl.models.checkpoint import LABELLED
from reasonrl.records import Record
from reasonrl.rewards.named import Means, choices
from reasonrl.stages import flags, score, training
from reasonrl.stages.sample import MaxTokens, Problems, Prompt, Stop, Temperature, whole_problems
from reasonrl.tasks import source
from reasonrl.tasks.own import reading
from reasonrl.tasks.prompts import own_form, prompt_form


class Spelling(StrEnum):
    text = "text"
    tokens = "tokens"


Base = Annotated[
    str,
    typer.Option("--base", metavar="M", envvar="REASONRL_MODEL", show_envvar=False, help="The weights to fine-tune.",
                 show_default="$REASONRL_MODEL or tiny"),
]  # fmt: skip
Data = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="FILE", help="Start from records labelled before; may be repeated.",
                 show_default=False),
]  # fmt: skip
SaveData = Annotated[
    str | None,
    typer.Option("--save-data", metavar="FILE", help="Keep the labelled records here; without -o, do no more.",
                 show_default=False),
]  # fmt: skip
LabelsFlag = Annotated[
    Spelling, typer.Option("--labels", help="Labels as plain text, or as two new tokens of the vocabulary.")
]
Solutions = Annotated[int, typer.Option("--solutions", min=1, metavar="N", help="Solutions a problem.")]
K = Annotated[int, typer.Option("--k", "-k", min=1, help="Completions of each prefix of a solution.")]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", help="A step is good if its value is at least this.", show_default="0.5"),
]  # fmt: skip


def rcrl(
    problems: Problems = None,
    task: flags.Task = None,
    split: flags.SplitName = flags.Split.train,
    limit: flags.Limit = None,
    path: flags.Path = None,
    model: flags.Model = "tiny",
    base: Base = "tiny",
    output: flags.Checkpoint = "",
    data: Data = None,
    save_data: SaveData = None,
    labels: LabelsFlag = Spelling.text,
    solutions: Solutions = 4,
    k: K = 8,
    threshold: Threshold = None,
    temperature: Temperature = 1.0,
    max_tokens: MaxTokens = 256,
    stop: Stop = None,
    prompt: Prompt = None,
    reward: score.RewardFlag = None,
    weight: score.Weight = None,
    answer: flags.AnswerFlag = flags.Answer.strict,
    orm: score.Orm = "tiny-orm",
    timeout: score.Timeout = 60.0,
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
    seed: flags.Seed = 0,
    batch_tokens: flags.BatchTokens = None,
    gradient_checkpointing: training.Checkpointing = False,
    save_every: training.SaveEvery = 200,
    device: flags.Device = None,
    dtype: flags.DType = flags.Precision.auto,
    attn: flags.Attention = None,
    force: flags.Force = False,
    resume: flags.Resume = False,
) -> None:
    """Train a policy on step labels; print the checkpoint's path.

    Draws solutions from --model, completes each of their prefixes --k times, calls a step [GOOD] if the mean return of
    its completions is at least --threshold, else [BAD], and fine-tunes --base on steps that stand behind their labels.
    `reasonrl sample` then puts [GOOD] before each step; `--condition '[BAD]'` asks for the opposite. docs/rcrl.md has
    the details and the cost.

    \b
    Examples:
      reasonrl rcrl --model runs/ei/round2 --base tiny --task mini --limit 1000 -o runs/rcrl
      reasonrl rcrl --model runs/ei/round2 --task mini --limit 1000 --save-data labelled.jsonl
      reasonrl rcrl --data labelled.jsonl --threshold 0.7 --labels tokens -o runs/rcrl
      checkpoint=$(reasonrl rcrl --task mini -o runs/rcrl --resume)
    """
    if data and (problems or task or save_data):
        raise UsageError("--data starts from labelled records: leave out problems, --task and --save-data")
    if not (output or save_data):
        raise UsageError("name the checkpoint's directory with --output, or a file with --save-data")
    if labels is Spelling.tokens and lora_rank:
        raise UsageError("--labels tokens changes the embeddings, which an adapter cannot hold; leave out --lora-rank")
    if temperature == 0:
        raise UsageError("--temperature 0 draws one and the same completion K times: its mean says nothing")
    if not data and training.processes() > 1:
        raise UsageError("label in one process (--save-data FILE), then `accelerate launch` with --data FILE")
    chosen = choices(reward or ["exact"], weight or [])
    training.refuse_conditional(base, "--base", "give the weights it was fine-tuned from")
    target, is_main = None, True
    if output:
        target, is_main = training.begin_fused(data or [], task or "", output, force=force, resume=resume)
    if not is_main:
        console.set_up("rcrl", quiet=True)

    if data:
        provenance.refuse_unfinished(data)
        files = data
    else:
        training.refuse_conditional(model, "--model", "its solutions would be drawn without labels")
        asked, problem_files = source.problems(problems or [], task, split.value, limit, path=path)
        provenance.has_read(problem_files)

        def start(running: ExitStack):
            """The labeller, with what it runs on."""
            from reasonrl.models import checkpoint
            from reasonrl.models.policy import load_policy
            from reasonrl.rewards.judge import Judge
            from reasonrl.sampling import Sampling
            from reasonrl.sampling.hf import HFEngine
            from reasonrl.training.labelling import Labeller

            policy = load_policy(model, device=device, dtype=dtype.value, attn=attn)
            form = prompt_form(prompt, stop, checkpoint.prompt_form(policy.directory) or own_form(task))
            means = Means(orm, device, flags.Precision.fp32.value, batch_tokens, timeout)
            judge = running.enter_context(closing(Judge(chosen, means, answer == flags.Answer.flexible, reading(task))))
            sampling = Sampling(solutions, temperature, 1.0, max_tokens, form.stop, seed)
            return Labeller(policy, HFEngine(policy), judge, form, sampling, k)

        if target:
            target.open()
        files = [save_data or str(target.partial / LABELLED)]
        limits = 0.5 if threshold is None else threshold
        with suppress(AlreadyDone):  # the labels; there is a policy to be made from them
            _label(files[0], asked, problem_files, solutions, start, limits, force=force, resume=resume)
        if not target:
            return
    rows, readers = training.read(files, limit if data else None)

    from reasonrl.models import checkpoint
    from reasonrl.models import labels as spelling
    from reasonrl.models.policy import load_policy, locate
    from reasonrl.training import rcrl as algorithm
    from reasonrl.training.labelling import add_costs
    from reasonrl.training.likelihood import train

    preset = training.choose(preset, base)
    settings = training.for_likelihood(
        preset, epochs=epochs, batch_size=batch_size, lr=lr, final_lr=final_lr, warmup=warmup,
        weight_decay=weight_decay, clip=clip, batch_tokens=batch_tokens, max_length=max_length, lora_rank=lora_rank,
        gradient_checkpointing=gradient_checkpointing, save_every=save_every, seed=seed,
    )  # fmt: skip

    held = training.held_in(dtype, lora_rank)
    policy = load_policy(base, device="cpu" if device == "cpu" else None, dtype=held, attn=attn)
    known = checkpoint.prompt_form(policy.directory) or (None if data else checkpoint.prompt_form(locate(model)))
    form = prompt_form(prompt, stop, known or own_form(task))
    used = spelling.TOKENS if labels is Spelling.tokens else spelling.TEXT
    encode = spelling.StepEncoder(policy)
    # Labels of fresh records follow the threshold as they are; those of --data stay what their owner made them.
    again = threshold if data else None
    found = [training.at(place, algorithm.to_solution, row, encode, form, used, again) for row, place in rows]
    balanced, counts = algorithm.balance([one for one in found if one], seed)
    if labels is Spelling.tokens:
        spelling.add_tokens(policy, used)
    label_ids = (policy.encode_completion(used.good), policy.encode_completion(used.bad))
    examples = [algorithm.to_example(one, learnt, label_ids) for one, learnt in balanced]
    cost = add_costs(row for row, _ in rows)
    if is_main:
        console.log(
            f"{counts['kept']} of {counts['distinct']} different solutions ({counts['right']} right), "
            f"{counts['good_steps']} good and {counts['bad_steps']} bad steps, {counts['learnt_steps']} of them learnt"
        )
        console.log(
            f"{settings.epochs:g} epochs, batches of {settings.batch_size}, "
            f"learning rate {settings.optimisation.learning_rate:g} ({preset.value})"
        )
    about = {
        "base": {"name": base, "directory": policy.directory},
        "preset": preset.value,
        "inputs": training.about_inputs(readers),
        "labels": used.to_json(),
        "balance": counts,
        "labelling": cost,
    }
    target.open()
    if is_main and not target.metrics.exists():
        log = jsonl.Log(target.metrics)
        log.write({"step": 0, "labelling": cost, "balance": counts})
        log.close()
    train(policy, examples, form, settings, target, device=device, dtype=dtype.value, about=about)
    if is_main:
        print(output)


def _label(
    file: str,
    asked: list[Record],
    readers: list[jsonl.Reader],
    solutions: int,
    start: Callable[[ExitStack], Any],
    threshold: float,
    *,
    force: bool,
    resume: bool,
) -> None:
    """Writes the labelled solutions of the problems that an earlier run has not labelled yet."""
    with provenance.open_output(file, force=force, resume=resume, replay=False) as out, ExitStack() as running:
        out.reads(readers)
        done = whole_problems(out, asked, solutions)
        if done:
            console.log(f"resuming behind {done} of {len(asked)} problems")
        labeller = start(running)

        from reasonrl.models.labels import TEXT
        from reasonrl.training.labelling import add_costs
        from reasonrl.training.rcrl import labels_of

        cost = add_costs(out.kept_records())
        watch, before = console.Stopwatch(), cost["tokens"]
        with console.progress("labelling", total=len(asked)) as advance:
            for number, records in enumerate(labeller(asked[done:]), start=done + 1):
                for record in records:
                    out.write(record | {"labels": labels_of(record["step_values"]["mc"], threshold, TEXT)})
                out.flush()
                cost = add_costs(records, cost)
                advance(number, f"{(cost['tokens'] - before) / watch.seconds:,.0f} tokens/s")
        out.counts = cost
        saved = 1 - cost["prefill_tokens"] / max(1, cost["naive_prefill_tokens"])
        console.log(
            f"labelled {out.count} solutions of {len(asked)} problems: {cost['prefixes']} different prefixes of "
            f"{cost['boundaries']}, {cost['samples']:,} samples, {cost['tokens']:,} tokens "
            f"({(cost['tokens'] - before) / watch.seconds:,.0f} tokens/s); {cost['prefill_tokens']:,} prefill tokens, "
            f"{saved:.1%} less than the {cost['naive_prefill_tokens']:,} of naive rollouts"
        )
