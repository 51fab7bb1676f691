"""`reasonrl sample`: K completions of each problem."""

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from reasonrl import console
from reasonrl.errors import UsageError
from reasonrl.io import provenance
from reasonrl.io.records import Record
from reasonrl.settings import SampleSettings
from reasonrl.stages.resuming import whole_problems
from reasonrl.tasks import exemplars, source

if TYPE_CHECKING:
    from reasonrl.models.language_model import ModelTokenizer
    from reasonrl.prompts import PromptForm
    from reasonrl.sampling.types import Request

SHOWN = ("id", "question", "reference")  # what the sidecar says of an exemplar


def sample(settings: SampleSettings) -> None:
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
    if settings.top_p == 0:
        raise UsageError("--top-p 0 leaves nothing to draw from; --temperature 0 is greedy")
    run = provenance.Run(settings)
    problems, readers = source.problems(settings)
    run.has_read(readers)
    first, shards = parse_shard(settings.shard)
    shown = exemplars.pick(settings.shots, settings.task, problems, settings.path, settings.seed)
    problems = problems[first::shards]
    if settings.dry_run and problems:
        from reasonrl.stages import dry_run

        return dry_run.show(settings, problems, shown)
    if not problems:
        console.log(f"no problem falls to --shard {settings.shard}: the output is empty")
        if settings.dry_run:
            return
    with provenance.open_output(run, replay=False) as out:
        out.reads(readers)
        if not problems:
            out.counts = {"problems": 0, "tokens": 0, "truncated": 0}
            return
        done = whole_problems(out, problems, settings.k)
        if done:
            console.log(f"resuming after {done} of {len(problems)} problems")
        _draw(settings, problems, done, shown, out)


def _draw(
    settings: SampleSettings, problems: list[Record], done: int, shown: exemplars.Exemplars, out: provenance.Output
) -> None:
    """Draws and writes the samples of the problems after the first `done`."""
    from reasonrl.models import labels
    from reasonrl.models.language_model import locate
    from reasonrl.models.prompt_form import prompt_form
    from reasonrl.sampling import conditional, engines
    from reasonrl.sampling.hf import draws
    from reasonrl.sampling.types import Sampling, to_record

    condition = labels.condition(settings.condition, locate(settings.model), settings.model)
    # An engine with a generator of its own must not begin every shard and every resumption with the same numbers.
    first = problems[min(done, len(problems) - 1)]["id"]
    engine_seed = int(draws.row_keys(settings.seed, [first], range(1))[0]) >> 33
    policy, engine = engines.start(settings, engine_seed)
    form = prompt_form(settings, policy.directory)
    sampling = Sampling(settings.k, settings.temperature, settings.top_p, settings.max_tokens, form.stop, settings.seed)
    common = {
        "temperature": settings.temperature, "top_p": settings.top_p, "seed": settings.seed, "model": settings.model,
        "tokenizer": policy.tokenizer_hash,
    } | ({"condition": condition.name} if condition else {})  # fmt: skip
    if out.is_file:
        out.extra = _about(settings.model, policy.directory, form, type(engine).__name__, shown)
        out.write_sidecar(finished=False)
    if condition:
        engine = conditional.Conditional(engine, policy, condition)

    prompts = Prompts(problems[done:], shown, form, policy)
    count = Count.of(out)
    watch, tokens_before = console.Stopwatch(), count.tokens
    with contextlib.closing(engine), console.progress("sampling", total=len(problems)) as advance:
        for number, completions in enumerate(engine.sample(prompts.requests(), sampling), start=done + 1):
            problem, prompt = prompts.next_answered()
            for k, completion in enumerate(completions):
                count.add(len(completion.ids), completion.finish)
                out.write(to_record(problem, k, prompt, completion, common, settings.logprobs))
            out.flush()
            advance(number, f"{(count.tokens - tokens_before) / watch.seconds:,.0f} tokens/s")
    speed = (count.tokens - tokens_before) / watch.seconds
    out.counts = {"problems": len(problems), "tokens": count.tokens, "truncated": count.truncated}
    out.extra["tokens_per_second"] = round(speed, 1)
    if fresh := (len(problems) - done) * settings.k:
        console.log(
            f"{fresh} samples of {len(problems) - done} problems, {(count.tokens - tokens_before) / fresh:.1f} tokens "
            f"each, {count.fresh_truncated / fresh:.1%} truncated, {speed:,.0f} tokens/s"
        )


class Prompts:
    """Requests for an engine, and for each of them in order what its records say of the prompt."""

    def __init__(
        self, problems: list[Record], shown: exemplars.Exemplars, form: "PromptForm", policy: "ModelTokenizer"
    ):
        self.problems, self.shown, self.form, self.policy = problems, shown, form, policy
        self._waiting: deque[tuple[Record, Record]] = deque()

    def requests(self) -> Iterator["Request"]:
        from reasonrl.sampling.types import Request

        for problem in self.problems:
            text = self.shown.render(problem, self.form, self.policy.tokenizer)
            without_shots = self.form.render(problem["question"], self.policy.tokenizer) if self.shown.count else text
            prompt = {
                "prompt": without_shots, "shots": self.shown.count, "prompt_hash": self.shown.hash(problem, self.form)
            }  # fmt: skip
            self._waiting.append((problem, prompt))
            yield Request(problem["id"], self.policy.encode_prompt(text))

    def next_answered(self) -> tuple[Record, Record]:
        """The problem whose completions come next, and the prompt fields of its records."""
        return self._waiting.popleft()


class Count:
    """Tokens and truncated samples, those of an earlier run included; `fresh_truncated` are this run's own."""

    def __init__(self) -> None:
        self.tokens = self.truncated = self.fresh_truncated = 0

    @classmethod
    def of(cls, out: provenance.Output) -> "Count":
        """What an interrupted run left."""
        count = cls()
        for record in out.kept_records():
            count.add(len(record.get("completion_ids") or ()), record["finish"])
        count.fresh_truncated = 0
        return count

    def add(self, tokens: int, finish: str) -> None:
        self.tokens += tokens
        self.truncated += finish == "length"
        self.fresh_truncated += finish == "length"


def _about(model: str, directory: str, form: "PromptForm", engine: str, shown: exemplars.Exemplars) -> dict[str, Any]:
    """What the sidecar says beyond the settings. The hash of a hub id is null: it is its own name."""
    digest = provenance.hash_files(directory) if os.path.isdir(directory) else None
    about: dict[str, Any] = {
        "model": {"name": model, "directory": directory, "sha256": digest},
        "prompt": form.to_json(),
        "engine": engine,
    }
    if shown.count:
        about["exemplars"] = [{name: exemplar[name] for name in SHOWN} for exemplar in shown.pool]
    return about


def parse_shard(text: str | None) -> tuple[int, int]:
    """`I/N` → (I, N), with 0 ≤ I < N."""
    if text is None:
        return 0, 1
    first, slash, second = text.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise UsageError(f"--shard {text}: want I/N with I from 0 to N-1, for example 0/4")
    return int(first), int(second)
