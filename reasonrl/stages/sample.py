"""`reasonrl sample`: K completions of each problem."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from reasonrl import console, jsonl, provenance
from reasonrl.errors import UsageError
from reasonrl.records import Record
from reasonrl.stages import flags
from reasonrl.tasks import exemplars, source
from reasonrl.tasks.prompts import own_form, prompt_form

SHOWN = ("id", "question", "reference")  # what the sidecar tells of an exemplar

Problems = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROBLEMS|-", help="Problem files; default: --task, else stdin, else 16 of mini.",
                   show_default=False),
]  # fmt: skip
K = Annotated[int, typer.Option("--k", "-k", min=1, help="Samples a problem.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0, help="Sampling temperature; 0 is greedy.")]
TopP = Annotated[float, typer.Option("--top-p", min=0, max=1, help="Draw from the most probable part only.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="New tokens a sample.")]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End a completion before this text; may be repeated.",
                 show_default="what the prompt form wants"),
]  # fmt: skip
Prompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="FORM", help="plain, chat, a file with {question} in it, or a task's Python file.",
                 show_default="the checkpoint's, else plain"),
]  # fmt: skip
ConditionFlag = Annotated[
    str | None,
    typer.Option("--condition", metavar="LABEL", help="The label before each step of a policy made by rcrl.",
                 show_default="its label of good steps"),
]  # fmt: skip
Logprobs = Annotated[bool, typer.Option("--logprobs", help="Add the log-probability of every token.")]
Shard = Annotated[
    str | None, typer.Option("--shard", metavar="I/N", help="Every N-th problem from number I on.", show_default="all")
]
Shots = Annotated[
    int, typer.Option("--shots", min=0, metavar="N", help="Worked examples before the question, from the train split.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the first prompt, its tokens and the plan; draw nothing.")
]


def sample(
    problems: Problems = None,
    task: flags.Task = None,
    split: flags.SplitName = flags.Split.train,
    limit: flags.Limit = None,
    model: flags.Model = "tiny",
    k: K = 1,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    max_tokens: MaxTokens = 256,
    stop: Stop = None,
    prompt: Prompt = None,
    shots: Shots = 0,
    condition: ConditionFlag = None,
    logprobs: Logprobs = False,
    seed: flags.Seed = 0,
    shard: Shard = None,
    path: flags.Path = None,
    dry_run: DryRun = False,
    backend: flags.BackendFlag = flags.Backend.auto,
    batch_tokens: flags.BatchTokens = None,
    device: flags.Device = None,
    dtype: flags.DType = flags.Precision.auto,
    attn: flags.Attention = None,
    base_url: flags.BaseUrl = None,
    concurrency: flags.Concurrency = None,
    timeout: flags.Timeout = None,
    retries: flags.Retries = None,
    engine_arg: flags.EngineArg = None,
    output: flags.OutputFile = "-",
    force: flags.Force = False,
    resume: flags.Resume = False,
) -> None:
    """Sample K completions of each problem from a model.

    The samples of a problem come out together, problems in their order, flushed batch by batch. A sample's random
    draws depend only on (seed, id, k, position): not on the batch, the shard, or the order. (vllm and servers promise
    the distribution only.)

    \b
    Examples:
      reasonrl sample --k 96 | reasonrl score | jq .reward
      reasonrl data mini --limit 200 | reasonrl sample --k 8 -o samples.jsonl
      reasonrl sample --task gsm8k --split test --temperature 0 --model ./sft --resume -o greedy.jsonl
      reasonrl sample --task mini --split test --model runs/rcrl --condition '[BAD]' -o bad.jsonl
      reasonrl sample --task gsm8k --shots 4 --model ./llama --backend vllm --engine-arg max_num_seqs=512
      reasonrl sample --task gsm8k --model ./llama --base-url http://node7:8000/v1 --shard 0/8 -o shard0.jsonl
    """
    if top_p == 0:
        raise UsageError("--top-p 0 leaves nothing to draw from; --temperature 0 is greedy")
    chosen, readers = source.problems(problems or [], task, split, limit, path=path)
    provenance.has_read(readers)
    first, of = flags.parse_shard(shard)
    shown = exemplars.pick(shots, task, chosen, path, seed)
    chosen = chosen[first::of]
    if not chosen:
        console.log(f"no problem falls to --shard {shard}: the output is empty")
        if not dry_run:
            with provenance.open_output(output, force=force, resume=resume) as out:
                out.reads(readers)
                out.counts = {"problems": 0, "tokens": 0, "truncated": 0}
        return
    draw = {"k": k, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}

    def engine_setup():
        from reasonrl.sampling import engines

        return engines.Setup(
            backend.value, device, dtype.value, attn, batch_tokens, base_url, concurrency, timeout, retries,
            engines.parse_arguments(engine_arg or []),
        )  # fmt: skip

    if dry_run:
        return _show_plan(
            chosen, shown, task, model, prompt, stop, condition, engine_setup(), draw | {"seed": seed, "output": output}
        )
    with provenance.open_output(output, force=force, resume=resume, replay=False) as out:
        out.reads(readers)
        done = whole_problems(out, chosen, k)
        if done:
            console.log(f"resuming behind {done} of {len(chosen)} problems")

        from reasonrl.models import checkpoint, labels
        from reasonrl.models.policy import locate
        from reasonrl.sampling import Request, Sampling, conditional, draws, engines, to_record

        wanted = labels.condition(condition, locate(model), model)

        # An engine with a generator of its own must not begin every shard and every resumption with the same numbers.
        first = chosen[min(done, len(chosen) - 1)]["id"]
        own_seed = int(draws.row_keys(seed, [first], range(1))[0]) >> 33
        policy, engine = engines.start(model, engine_setup(), own_seed)
        form = prompt_form(prompt, stop, checkpoint.prompt_form(policy.directory) or own_form(task))
        sampling = Sampling(stop=form.stop, seed=seed, **draw)
        fixed = {
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "model": model,
            "tokenizer": policy.tokenizer_hash,
        }
        if wanted:
            fixed["condition"] = wanted.name
        if out.is_file:
            out.extra = {
                "model": {"name": model, "directory": policy.directory, "sha256": _model_hash(policy.directory)},
                "prompt": form.to_json(),
                "engine": type(engine).__name__,
            }
            if shots:
                out.extra["exemplars"] = [{name: of[name] for name in SHOWN} for of in shown.pool]
            out.write_sidecar(finished=False)

        if wanted:
            engine = conditional.Conditional(engine, policy, wanted)

        def requests() -> Iterator[Request]:
            for problem in chosen[done:]:
                text = shown.render(problem, form, policy.tokenizer)
                yield Request(problem["id"], policy.encode_prompt(text))

        tokens_before = cut_before = 0
        for record in out.kept_records():
            tokens_before += len(record.get("completion_ids") or ())
            cut_before += record["finish"] == "length"
        watch = console.Stopwatch()
        tokens = cut = 0
        with contextlib.closing(engine), console.progress("sampling", total=len(chosen)) as advance:
            for number, completions in enumerate(engine.sample(requests(), sampling), start=done):
                problem = chosen[number]
                asked = {
                    "prompt": form.render(problem["question"], policy.tokenizer),
                    "shots": shots,
                    "prompt_hash": shown.hash(problem, form),
                }
                for index, completion in enumerate(completions):
                    tokens += len(completion.ids)
                    cut += completion.finish == "length"
                    out.write(to_record(problem, index, asked, completion, fixed, logprobs))
                out.flush()
                advance(number + 1, f"{tokens / watch.seconds:,.0f} tokens/s")
        fresh = (len(chosen) - done) * k
        out.counts = {"problems": len(chosen), "tokens": tokens_before + tokens, "truncated": cut_before + cut}
        out.extra["tokens_per_second"] = round(tokens / watch.seconds, 1)
    if fresh:
        console.log(
            f"{fresh} samples of {len(chosen) - done} problems, {tokens / fresh:.1f} tokens each, {cut / fresh:.1%} "
            f"truncated, {tokens / watch.seconds:,.0f} tokens/s"
        )


def _show_plan(
    chosen: list[Record],
    shown: exemplars.Exemplars,
    task: str | None,
    model: str,
    prompt: str | None,
    stop: list[str] | None,
    condition: str | None,
    setup,
    draw,
) -> None:
    """The first prompt and what would be done with it: JSON on stdout, and on stderr for the eye. Loads no weights."""
    from reasonrl.models import checkpoint, labels
    from reasonrl.models.policy import load_tokenizer

    engine = setup.chosen()
    policy = load_tokenizer(model)
    form = prompt_form(prompt, stop, checkpoint.prompt_form(policy.directory) or own_form(task))
    wanted = labels.condition(condition, policy.directory, model)
    label, label_ids = (wanted.text, policy.encode_completion(wanted.text)) if wanted else ("", [])
    texts = [shown.render(problem, form, policy.tokenizer) for problem in chosen]
    encoded = [policy.encode_prompt(text) + label_ids for text in texts]
    for problem, ids in zip(chosen, encoded, strict=True):
        policy.check_fits(problem["id"], ids)
    tokens = policy.tokenizer.convert_ids_to_tokens(encoded[0])
    lengths = [len(ids) for ids in encoded]
    plan = {
        "problems": len(chosen), "first": chosen[0]["id"], "model": model, "directory": policy.directory,
        "backend": engine, "form": form.name, "stop": list(form.stop), "eos_ids": sorted(policy.eos_ids),
        "shots": shown.count, "shots_ids": [of["id"] for of in shown.of(chosen[0])], "context": policy.context,
        "prompt_tokens": {"shortest": min(lengths), "longest": max(lengths), "all": sum(lengths)},
        "most_new_tokens": len(chosen) * draw["k"] * draw["max_tokens"],
    } | ({"condition": wanted.name} if wanted else {}) | draw  # fmt: skip
    for line in (texts[0] + label).split("\n"):
        console.log(f"| {line}")
    console.log(f"{lengths[0]} tokens: {' '.join(tokens)}")
    console.log(", ".join(f"{name} {value}" for name, value in plan.items()))
    sys.stdout.write(
        jsonl.dumps({"plan": plan, "prompt": texts[0] + label, "prompt_ids": encoded[0], "tokens": tokens}).decode()
    )
    sys.stdout.write("\n")


def _model_hash(directory: str) -> str | None:
    """Hash of a model on disk; a hub id is its own name."""
    return provenance.hash_files(directory) if os.path.isdir(directory) else None


def whole_problems(out: provenance.Output, problems: list[Record], k: int) -> int:
    """How many problems an interrupted run finished. Cuts the file back to them. Raises UsageError if what is there is
    not of these problems: ids alone may be numbers of lines, which fit any file."""
    done = held = 0
    for record in out.kept_records():
        fits = done < len(problems) and all(record.get(name) == problems[done][name] for name in ("id", "question"))
        if not fits or record.get("k") != held:
            raise UsageError(
                f"{out.partial} does not fit these problems (at id {record.get('id')!r}); --force starts again"
            )
        held += 1
        if held == k:
            done, held = done + 1, 0
    if out.kept > done * k:
        out.keep_first(done * k)
    return done
