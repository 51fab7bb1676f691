"""`sample`'s engines, each against what it is built on, on the same prompts in one process.

    python benchmarks/sampling_throughput.py                         hf against transformers' `generate`, on tiny
    python benchmarks/sampling_throughput.py $SMOLLM2 --require 1.5
    python benchmarks/sampling_throughput.py $SMOLLM2 --engine vllm
    where SMOLLM2="--model ./smollm2 --task gsm8k --problems 4 --k 32 --max-tokens 96"

Useful tokens are those up to and including EOS. After a short warm-up the two take turns; the ratio is of the medians.
`--engine vllm` needs vLLM (tests/vllm/run.sh builds such an environment); both sides then end at the stop strings too,
as they do in `sample`. `--clock cpu` counts the CPU seconds of this process and its children, which a busy machine
leaves as they are (on one thread: OMP_NUM_THREADS=1, VLLM_CPU_OMP_THREADS_BIND=0). `--profile` shows instead where the
hf engine's time goes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import islice

import torch

from reasonrl.models.language_model import LanguageModel, ModelTokenizer, load_language_model, load_tokenizer
from reasonrl.prompts import PromptForm
from reasonrl.sampling.types import Engine, Request, Sampling
from reasonrl.tasks import source

Turn = Callable[[int, int], int]  # (seed, most new tokens) → useful tokens
STOP = PromptForm().stop


def useful(rows: list[list[int]], eos: set[int]) -> int:
    """Tokens up to and including the first EOS of each row."""
    return sum(next((i + 1 for i, token in enumerate(row) if token in eos), len(row)) for row in rows)


def generate(policy: LanguageModel, requests: list[Request], k: int, rows: int) -> Turn:
    """transformers' `generate`, so many rows at a time: a batch runs until its longest row has ended, so the largest
    one is not the fastest."""
    size = max(1, rows // k)
    parts = [_generate(policy, requests[first : first + size], k) for first in range(0, len(requests), size)]
    return lambda seed, max_tokens: sum(part(seed + n, max_tokens) for n, part in enumerate(parts))


def _generate(policy: LanguageModel, requests: list[Request], k: int) -> Turn:
    width = max(len(request.prompt_ids) for request in requests)
    ids = torch.zeros((len(requests), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
        mask[row, width - len(request.prompt_ids) :] = 1

    def turn(seed: int, max_tokens: int) -> int:
        torch.manual_seed(seed)
        with torch.inference_mode():
            out = policy.model.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                num_return_sequences=k, max_new_tokens=max_tokens, pad_token_id=0,
            )  # fmt: skip
        return useful(out[:, width:].tolist(), policy.eos_ids)

    return turn


def bare_vllm(policy: ModelTokenizer, requests: list[Request], k: int, engine_args: dict) -> Turn:
    """vLLM's own `LLM.generate(n=K)`."""
    from vllm import LLM, SamplingParams

    llm = LLM(policy.directory, dtype="float32", seed=0, disable_log_stats=True, **engine_args)
    prompts = [{"prompt_token_ids": request.prompt_ids} for request in requests]

    def turn(seed: int, max_tokens: int) -> int:
        params = SamplingParams(n=k, max_tokens=max_tokens, stop=list(STOP), stop_token_ids=sorted(policy.eos_ids))
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(one.token_ids) for output in outputs for one in output.outputs)

    return turn


def own(engine: Engine, requests: list[Request], k: int, stop: tuple[str, ...]) -> Turn:
    """One of reasonrl's engines; log-probabilities and texts included."""

    def turn(seed: int, max_tokens: int) -> int:
        drawn = engine.sample(requests, Sampling(k=k, max_tokens=max_tokens, seed=seed, stop=stop))
        return sum(len(completion.ids) for completions in drawn for completion in completions)

    return turn


def cpu_seconds() -> float:
    """CPU time so far of this process and of those that it started."""
    import psutil  # comes with vLLM

    own = psutil.Process()
    return sum(time.user + time.system for time in (p.cpu_times() for p in (own, *own.children(recursive=True))))


def profile(turn: Turn, max_tokens: int) -> None:
    """Prints the operators that take most of a turn."""
    activity = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        turn(1, max_tokens)
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["hf", "vllm"], default="hf")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--task", default="mini")
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--k", type=int, default=96)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--max-model-len", type=int, default=512, help="of vLLM")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--require", type=float, help="exit 1 below this ratio (default: hf 2, vllm 0.95)")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()

    policy = load_language_model(options.model) if options.engine == "hf" else load_tokenizer(options.model)
    form = PromptForm()
    problems = islice(source.task_problems(options.task, "test"), options.problems)
    requests = [Request(p["id"], policy.encode_prompt(form.render(p["question"]))) for p in problems]
    if options.engine == "hf":
        from reasonrl.sampling.hf.engine import HFEngine

        engine, stop, required = HFEngine(policy), (), options.require or 2.0
        rows = sorted({options.k, min(256, options.problems * options.k), options.problems * options.k})
        peers = {f"transformers generate, {n} rows at a time": generate(policy, requests, options.k, n) for n in rows}
    else:
        from reasonrl.sampling.vllm import VLLMEngine

        engine_args = {"enforce_eager": True, "max_model_len": options.max_model_len}
        engine, stop, required = VLLMEngine(policy, "fp32", engine_args=engine_args), STOP, options.require or 0.95
        peers = {"LLM.generate": bare_vllm(policy, requests, options.k, engine_args)}
    turns = peers | {f"reasonrl, {options.engine}": own(engine, requests, options.k, stop)}
    for turn in turns.values():
        turn(0, 8)  # warms up
    if options.profile:
        return profile(turns[f"reasonrl, {options.engine}"], options.max_tokens)

    clock = cpu_seconds if options.clock == "cpu" else time.perf_counter
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(options.turns):
        for name, turn in turns.items():
            start = clock()
            tokens = turn(number, options.max_tokens)
            rates[name].append(tokens / (clock() - start))
    engine.close()
    median = {name: statistics.median(by_turn) for name, by_turn in rates.items()}
    own_rate, peer_rate = median[f"reasonrl, {options.engine}"], max(median[peer] for peer in peers)
    lengths = [len(request.prompt_ids) for request in requests]
    print(
        f"{options.problems} problems × {options.k}, prompts of {min(lengths)} to {max(lengths)} tokens, at most "
        f"{options.max_tokens} new ones, {options.turns} turns, {torch.get_num_threads()} threads\n"
    )
    unit = "CPU second" if options.clock == "cpu" else "second"
    print(f"| engine | useful tokens a {unit} (median) | lowest | highest |\n| --- | --- | --- | --- |")
    for name, by_turn in rates.items():
        print(f"| {name} | {median[name]:,.0f} | {min(by_turn):,.0f} | {max(by_turn):,.0f} |")
    print(f"\nratio to the best of the peer's {own_rate / peer_rate:.2f}, required {required}")
    raise SystemExit(own_rate < required * peer_rate)


if __name__ == "__main__":
    main()
