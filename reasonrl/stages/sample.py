"""`reasonrl sample`: K completions of each problem."""

import os
from collections.abc import Iterator
from typing import Annotated

import typer

from reasonrl import console, provenance
from reasonrl.errors import UsageError
from reasonrl.records import Record
from reasonrl.stages import flags
from reasonrl.tasks import source
from reasonrl.tasks.prompts import PromptForm, prompt_form

Problems = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PROBLEMS|-]", help="Problem files; default: --task, else stdin, else 16 of mini.",
                   show_default=False),
]  # fmt: skip
K = Annotated[int, typer.Option("--k", "-k", min=1, help="Samples a problem.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0, help="0 is greedy.")]
TopP = Annotated[float, typer.Option("--top-p", min=0, max=1, help="Draw from the most probable part only.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="New tokens a sample.")]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End a completion before this text; may be repeated.",
                 show_default="what the prompt form wants"),
]  # fmt: skip
Prompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="FORM", help="plain, chat, or a file with {question} in it.",
                 show_default="the checkpoint's, else plain"),
]  # fmt: skip
Logprobs = Annotated[bool, typer.Option("--logprobs", help="Add the log-probability of every token.")]
Shard = Annotated[
    str | None, typer.Option("--shard", metavar="I/N", help="Every N-th problem from the I-th on.", show_default="all")
]
BackendFlag = Annotated[flags.Backend, typer.Option("--backend", help="The engine that draws.")]


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
    logprobs: Logprobs = False,
    seed: flags.Seed = 0,
    shard: Shard = None,
    path: flags.Path = None,
    backend: BackendFlag = flags.Backend.auto,
    batch_tokens: flags.BatchTokens = None,
    device: flags.Device = None,
    dtype: flags.DType = flags.Precision.auto,
    output: flags.OutputFile = "-",
    force: flags.Force = False,
    resume: flags.Resume = False,
) -> None:
    """Sample K completions of each problem from a model.

    The samples of a problem come out together, problems in their order, flushed batch by batch. A sample's random
    draws depend only on (seed, id, k, position): not on the batch, the shard, or the order.

    \b
    Examples:
      reasonrl sample --k 96 | reasonrl score | jq .reward
      reasonrl data mini --limit 200 | reasonrl sample --k 8 -o samples.jsonl
      reasonrl sample --task gsm8k --split test --temperature 0 --model ./sft --resume -o greedy.jsonl
    """
    if top_p == 0:
        raise UsageError("--top-p 0 leaves nothing to draw from; --temperature 0 is greedy")
    chosen, readers = source.problems(problems or [], task, split, limit, path=path, shard=flags.parse_shard(shard))
    with provenance.open_output(output, force=force, resume=resume, replay=False) as out:
        out.inputs = readers
        done = _whole_problems(out, [problem["id"] for problem in chosen], k)
        if done:
            console.log(f"resuming behind {done} of {len(chosen)} problems")

        from reasonrl.models import checkpoint
        from reasonrl.models.policy import load_policy
        from reasonrl.sampling import Request, Sampling
        from reasonrl.sampling.hf import HFEngine

        policy = load_policy(model, device=device, dtype=dtype)
        form = prompt_form(prompt, stop, checkpoint.prompt_form(policy.directory))
        sampling = Sampling(k, temperature, top_p, max_tokens, form.stop, seed)
        engine = HFEngine(policy, batch_tokens)
        fixed = {
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "model": model,
            "tokenizer": policy.tokenizer_hash,
        }
        if out.is_file:
            out.extra = {
                "model": {"name": model, "directory": policy.directory, "sha256": _model_hash(policy.directory)},
                "prompt": form.to_json(),
            }
            out.write_sidecar(finished=False)

        def requests() -> Iterator[Request]:
            for problem in chosen[done:]:
                yield Request(problem["id"], policy.encode_prompt(form.render(problem["question"], policy.tokenizer)))

        watch = console.Stopwatch()
        tokens = cut = 0
        with console.progress("sampling", total=len(chosen)) as advance:
            for number, completions in enumerate(engine.sample(requests(), sampling), start=done):
                problem = chosen[number]
                shown = form.render(problem["question"], policy.tokenizer)
                for index, completion in enumerate(completions):
                    tokens += len(completion.ids)
                    cut += completion.finish == "length"
                    out.write(_record(problem, index, shown, form, completion, fixed, logprobs))
                out.flush()
                advance(number + 1, f"{tokens / watch.seconds:,.0f} tokens/s")
        fresh = (len(chosen) - done) * k
        out.counts = {"problems": len(chosen), "tokens": tokens, "truncated": cut}
        out.extra["tokens_per_second"] = round(tokens / watch.seconds, 1)
    if fresh:
        console.log(
            f"{fresh} samples of {len(chosen) - done} problems, {tokens / fresh:.1f} tokens each, {cut / fresh:.1%} "
            f"truncated, {tokens / watch.seconds:,.0f} tokens/s"
        )


def _record(
    problem: Record, k: int, prompt: str, form: PromptForm, completion, fixed: Record, logprobs: bool
) -> Record:
    record = problem | {
        "k": k,
        "prompt": prompt,
        "shots": 0,
        "prompt_hash": form.hash,
        "completion": completion.text,
        "completion_ids": completion.ids,
        "logprob": None if completion.logprobs is None else sum(completion.logprobs),
        "finish": completion.finish,
    }
    if logprobs:
        record["logprobs"] = completion.logprobs
    return record | fixed


def _model_hash(directory: str) -> str | None:
    """Hash of a model on disk; a hub id is its own name."""
    return provenance.hash_files(directory) if os.path.isdir(directory) else None


def _whole_problems(out: provenance.Output, ids: list[str], k: int) -> int:
    """How many problems an interrupted run finished. Cuts the file back to them."""
    done = held = 0
    for record in out.kept_records():
        if done == len(ids) or record.get("id") != ids[done] or record.get("k") != held:
            raise UsageError(
                f"{out.partial} does not fit these problems (at id {record.get('id')!r}); --force starts again"
            )
        held += 1
        if held == k:
            done, held = done + 1, 0
    if out.kept > done * k:
        out.keep_first(done * k)
    return done
