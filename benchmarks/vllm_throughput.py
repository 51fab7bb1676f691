"""`sample --backend vllm`'s engine against a bare `LLM.generate(n=K)`, on the same prompts, one after the other.

    python benchmarks/vllm_throughput.py --model ./smollm2 --k 32 --max-tokens 96 --task gsm8k --require 0.95

Each engine is started once, warmed up and ended before the next; tokens are all those generated, EOS included. Run it
where vllm is installed (tests/vllm/run.sh builds such an environment).
"""

import argparse
import statistics
import time
from itertools import islice

from reasonrl.models.policy import load_tokenizer
from reasonrl.sampling import Request, Sampling
from reasonrl.tasks import source
from reasonrl.tasks.prompts import PromptForm


def bare(policy, requests, options) -> list[float]:
    """Tokens a second of each turn of `LLM.generate`."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        policy.directory, dtype="float32", enforce_eager=True, max_model_len=options.max_model_len, seed=0,
        disable_log_stats=True,
    )  # fmt: skip
    params = SamplingParams(
        n=options.k, max_tokens=options.max_tokens, temperature=1.0, stop=list(PromptForm().stop),
        stop_token_ids=sorted(policy.eos_ids),
    )  # fmt: skip
    prompts = [{"prompt_token_ids": request.prompt_ids} for request in requests]
    rates = []
    for _ in range(options.turns + 1):
        start = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
        rates.append(tokens / (time.perf_counter() - start))
    llm.llm_engine.engine_core.shutdown()
    return rates[1:]


def ours(policy, requests, options) -> list[float]:
    """The same of reasonrl's engine, log-probabilities and texts included."""
    from reasonrl.sampling.vllm import VLLMEngine

    engine = VLLMEngine(policy, "fp32", engine_args={"enforce_eager": True, "max_model_len": options.max_model_len})
    sampling = Sampling(k=options.k, max_tokens=options.max_tokens, stop=PromptForm().stop)
    rates = []
    for _ in range(options.turns + 1):
        start = time.perf_counter()
        tokens = sum(len(one.ids) for of_problem in engine.sample(requests, sampling) for one in of_problem)
        rates.append(tokens / (time.perf_counter() - start))
    engine.close()
    return rates[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--task", default="mini")
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--max-model-len", type=int, default=512)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--require", type=float, default=0.95, help="exit 1 below this ratio")
    options = parser.parse_args()

    policy = load_tokenizer(options.model)
    problems = islice(source.task_problems(options.task, "test"), options.problems)
    form = PromptForm()
    requests = [Request(p["id"], policy.encode_prompt(form.render(p["question"]))) for p in problems]
    rates = {"LLM.generate": bare(policy, requests, options), "reasonrl": ours(policy, requests, options)}
    print("| engine | tokens/s (median) | lowest | highest |\n| --- | --- | --- | --- |")
    for name, of_name in rates.items():
        print(f"| {name} | {statistics.median(of_name):,.0f} | {min(of_name):,.0f} | {max(of_name):,.0f} |")
    ratio = statistics.median(rates["reasonrl"]) / statistics.median(rates["LLM.generate"])
    print(f"\nratio {ratio:.2f}, required {options.require}")
    raise SystemExit(ratio < options.require)


if __name__ == "__main__":
    main()
