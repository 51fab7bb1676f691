"""`reasonrl rcrl`: labels the steps of a policy's solutions with what they lead to, and learns to follow the labels."""

from contextlib import closing, suppress
from typing import Any

from reasonrl import console
from reasonrl.errors import AlreadyDone, UsageError
from reasonrl.io import jsonl, provenance
from reasonrl.io.provenance import Run
from reasonrl.io.records import Record
from reasonrl.models.checkpoint import LABELLED
from reasonrl.rewards.registry import RewardResources, reward_specs
from reasonrl.settings import RcrlSettings
from reasonrl.stages import training
from reasonrl.stages.resuming import whole_problems
from reasonrl.tasks import source, user_file


def rcrl(settings: RcrlSettings) -> None:
    """Train a policy on step labels; print the checkpoint's path.

    Draws solutions from --model, completes each of their prefixes --k times, calls a step [GOOD] if the mean return of
    its completions is at least --threshold, else [BAD], and fine-tunes --base on steps that follow their labels.
    `reasonrl sample` then puts [GOOD] before each step; `--condition '[BAD]'` asks for the opposite. docs/rcrl.md has
    the details and the cost.

    \b
    Examples:
      reasonrl rcrl --model runs/ei/round2 --base tiny --task mini --limit 1000 -o runs/rcrl
      reasonrl rcrl --model runs/ei/round2 --task mini --limit 1000 --save-data labelled.jsonl
      reasonrl rcrl --data labelled.jsonl --threshold 0.7 --labels tokens -o runs/rcrl
      checkpoint=$(reasonrl rcrl --task mini -o runs/rcrl --resume)
    """
    _check(settings)
    frame = training.Frame(settings, settings.data, settings.task) if settings.output else None
    run = frame.run if frame else Run(settings)
    if settings.data:
        files, limit = settings.data, settings.limit
    else:
        problems, readers = source.problems(settings)
        run.has_read(readers)
        if frame:
            frame.checkpoint.open()
        file = settings.save_data or (str(frame.checkpoint.partial / LABELLED) if frame else None)
        assert file is not None  # `_check` has seen to it
        files, limit = (file,), None
        with suppress(AlreadyDone):  # the labels; there is a policy to be made from them
            _label(run, settings, file, problems, readers)
    if frame:
        _learn(frame, settings, frame.read_records(files, limit))


def _check(settings: RcrlSettings) -> None:
    """Raises UsageError for settings that do not go together."""
    if settings.data and (settings.problems or settings.task or settings.save_data):
        raise UsageError("--data starts from labelled records: leave out problems, --task and --save-data")
    if not (settings.output or settings.save_data):
        raise UsageError("name the checkpoint's directory with --output, or a file with --save-data")
    if settings.labels == "tokens" and settings.lora_rank:
        raise UsageError("--labels tokens changes the embeddings, which an adapter cannot hold; leave out --lora-rank")
    if settings.temperature == 0:
        raise UsageError("--temperature 0 draws one and the same completion K times: its mean says nothing")
    if not settings.data and training.processes() > 1:
        raise UsageError("label in one process (--save-data FILE), then `accelerate launch` with --data FILE")
    reward_specs(settings.reward, settings.weight)
    training.refuse_conditional(settings.base, "--base", "give the weights it was fine-tuned from")
    if not settings.data:
        training.refuse_conditional(settings.model, "--model", "its solutions would be drawn without labels")


def _label(run: Run, settings: RcrlSettings, file: str, problems: list[Record], readers: list[jsonl.Reader]) -> None:
    """Writes the labelled solutions of the problems that an earlier run has not labelled yet."""
    with provenance.open_output(run, file, replay=False) as out:
        out.reads(readers)
        done = whole_problems(out, problems, settings.solutions)
        if done:
            console.log(f"resuming after {done} of {len(problems)} problems")

        from reasonrl.rewards.scorer import RewardScorer
        from reasonrl.training.rcrl.labelling import add_costs

        resources = RewardResources(settings.orm, settings.device, "fp32", settings.batch_tokens, settings.timeout)
        specs = reward_specs(settings.reward, settings.weight)
        watch = console.Stopwatch()
        earlier = add_costs(out.kept_records())
        read = user_file.answer_reader(settings.task)
        with closing(RewardScorer(specs, resources, settings.answer, read)) as scorer:
            out.counts = _write_labelled(out, settings, problems[done:], _labeller(settings, scorer), earlier)
        _report_costs(out, len(problems), (out.counts["tokens"] - earlier["tokens"]) / watch.seconds)


def _labeller(settings: RcrlSettings, scorer: Any) -> Any:
    """The labeller, with the policy and the engine that it draws with."""
    from reasonrl.models.language_model import load_language_model
    from reasonrl.models.prompt_form import prompt_form
    from reasonrl.sampling.hf.engine import HFEngine
    from reasonrl.sampling.types import Sampling
    from reasonrl.training.rcrl.labelling import Labeller

    policy = load_language_model(settings.model, device=settings.device, dtype=settings.dtype, attn=settings.attn)
    form = prompt_form(settings, policy.directory)
    sampling = Sampling(settings.solutions, settings.temperature, 1.0, settings.max_tokens, form.stop, settings.seed)
    return Labeller(policy, HFEngine(policy), scorer, form, sampling, settings.k)


def _write_labelled(
    out: provenance.Output, settings: RcrlSettings, problems: list[Record], labeller: Any, cost: dict[str, int]
) -> dict[str, int]:
    """Labels and writes. Returns the cost of all records, those of an earlier run included."""
    from reasonrl.models.labels import TEXT
    from reasonrl.training.rcrl.examples import labels_of
    from reasonrl.training.rcrl.labelling import add_costs

    threshold = 0.5 if settings.threshold is None else settings.threshold
    watch, before, cost = console.Stopwatch(), cost["tokens"], dict(cost)
    with console.progress("labelling", total=len(problems)) as advance:
        for number, records in enumerate(labeller(problems), start=1):
            for record in records:
                out.write(record | {"labels": labels_of(record["step_values"]["mc"], threshold, TEXT)})
            out.flush()
            cost = add_costs(records, cost)
            advance(number, f"{(cost['tokens'] - before) / watch.seconds:,.0f} tokens/s")
    return cost


def _report_costs(out: provenance.Output, problems: int, speed: float) -> None:
    cost = out.counts
    saved = 1 - cost["prefill_tokens"] / max(1, cost["naive_prefill_tokens"])
    console.log(
        f"labelled {out.count} solutions of {problems} problems: {cost['prefixes']} different prefixes of "
        f"{cost['boundaries']}, {cost['samples']:,} samples, {cost['tokens']:,} tokens ({speed:,.0f} tokens/s); "
        f"{cost['prefill_tokens']:,} prefill tokens, {saved:.1%} less than the {cost['naive_prefill_tokens']:,} of "
        "naive rollouts"
    )


def _learn(frame: training.Frame, settings: RcrlSettings, rows: list[training.PlacedRecord]) -> None:
    """Fine-tunes the base on labelled records."""
    from reasonrl.models import labels
    from reasonrl.models.language_model import locate
    from reasonrl.models.prompt_form import prompt_form
    from reasonrl.training.likelihood import train
    from reasonrl.training.rcrl import examples as algorithm
    from reasonrl.training.rcrl.labelling import add_costs

    policy = frame.load_language_model(settings.base)
    form = prompt_form(settings, policy.directory, *([] if settings.data else [locate(settings.model)]))
    spelling = labels.TOKENS if settings.labels == "tokens" else labels.TEXT
    encode = labels.StepEncoder(policy)
    # Labels of fresh records follow the threshold as they are; those of --data stay what their owner made them.
    threshold = settings.threshold if settings.data else None
    solutions = training.located(algorithm.to_solution, rows, encode, form, spelling, threshold)
    balanced, counts = algorithm.balance([solution for solution in solutions if solution], settings.seed)
    if settings.labels == "tokens":
        labels.add_tokens(policy, spelling)
    label_ids = (policy.encode_completion(spelling.good), policy.encode_completion(spelling.bad))
    examples = [algorithm.to_example(solution, learned, label_ids) for solution, learned in balanced]
    cost = add_costs(record for record, _ in rows)
    console.log(
        f"{counts['kept']} of {counts['distinct']} different solutions ({counts['right']} right), "
        f"{counts['good_steps']} good and {counts['bad_steps']} bad steps, {counts['learnt_steps']} of them learned"
    )
    frame.announce("")
    frame.checkpoint.open()
    if frame.is_main and not frame.checkpoint.metrics.exists():
        log = jsonl.Log(frame.checkpoint.metrics)
        log.write({"update": 0, "labelling": cost, "balance": counts})
        log.close()
    about = frame.about(policy, labels=spelling.to_json(), balance=counts, labelling=cost)
    train(policy, examples, form, settings, frame.checkpoint, about)
    frame.print_path()
