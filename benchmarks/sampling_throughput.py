"""`sample`'s in-process engine against transformers' `generate`, on the same prompts in one process.

    python benchmarks/sampling_throughput.py                                        tiny, 8 problems × 96 samples
    python benchmarks/sampling_throughput.py --model ./smollm2 --k 32 --max-tokens 96 --task gsm8k --require 1.5

Useful tokens are those up to and including EOS. The two take turns; the ratio is of the medians.
"""

import argparse
import statistics
import time
from itertools import islice

import torch

from reasonrl.models.policy import load_policy
from reasonrl.sampling import Request, Sampling
from reasonrl.sampling.hf import HFEngine
from reasonrl.tasks import source
from reasonrl.tasks.prompts import PromptForm


def useful(rows: list[list[int]], eos: set[int]) -> int:
    """Tokens up to and including the first EOS of each row."""
    return sum(next((i + 1 for i, token in enumerate(row) if token in eos), len(row)) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--task", default="mini")
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--k", type=int, default=96)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--require", type=float, default=2.0, help="exit 1 below this ratio")
    options = parser.parse_args()

    policy = load_policy(options.model)
    form = PromptForm()
    problems = islice(source.task_problems(options.task, "test"), options.problems)
    requests = [Request(p["id"], policy.encode_prompt(form.render(p["question"]))) for p in problems]
    width = max(len(request.prompt_ids) for request in requests)
    ids = torch.full((len(requests), width), policy.pad_id)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
        mask[row, width - len(request.prompt_ids) :] = 1

    def generate(seed: int) -> int:
        torch.manual_seed(seed)
        with torch.inference_mode():
            out = policy.model.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                num_return_sequences=options.k, max_new_tokens=options.max_tokens, pad_token_id=policy.pad_id,
            )  # fmt: skip
        return useful(out[:, width:].tolist(), policy.eos_ids)

    def sample(seed: int) -> int:
        engine = HFEngine(policy)
        drawn = engine.sample(requests, Sampling(k=options.k, max_tokens=options.max_tokens, seed=seed))
        return sum(len(completion.ids) for of_problem in drawn for completion in of_problem)

    rates: dict[str, list[float]] = {"transformers generate": [], "reasonrl": []}
    for turn in range(options.turns + 1):
        for name, work in (("transformers generate", generate), ("reasonrl", sample)):
            start = time.perf_counter()
            tokens = work(turn)
            if turn:  # the first turn warms up
                rates[name].append(tokens / (time.perf_counter() - start))
    median = {name: statistics.median(of_name) for name, of_name in rates.items()}
    ratio = median["reasonrl"] / median["transformers generate"]
    threads = torch.get_num_threads()
    print(f"{options.problems} problems × {options.k}, at most {options.max_tokens} tokens, {threads} threads\n")
    print("| engine | useful tokens/s (median) | lowest | highest |\n| --- | --- | --- | --- |")
    for name, of_name in rates.items():
        print(f"| {name} | {median[name]:,.0f} | {min(of_name):,.0f} | {max(of_name):,.0f} |")
    print(f"\nratio {ratio:.2f}, required {options.require}")
    raise SystemExit(ratio < options.require)


if __name__ == "__main__":
    main()
