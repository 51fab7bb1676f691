"""The vLLM engine: one request a prompt with n = K, prompts cached by prefix, LoRA adapters without merging.

vLLM batches continuously and schedules as it likes, so what is promised here is the distribution, not the draws of
the hf engine. Log-probabilities are vLLM's `raw_logprobs`: those of the model at temperature 1, whatever the draw's.
"""

import asyncio
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from reasonrl import console
from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.io import jsonl, streams
from reasonrl.models.language_model import ModelTokenizer, base_of, is_adapter
from reasonrl.sampling.ordered import in_order
from reasonrl.sampling.types import Completion, Request, Sampling, cut_at_stop

# stdout is for records, and vLLM's chatter of a start is no news; VLLM_LOGGING_LEVEL=INFO brings it back.
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("PYTHONWARNINGS", "ignore")  # of its processes

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
FULL_TWICE = 2  # requests under way, as a multiple of what the engine runs at a time


class VLLMEngine:
    """Samples with vLLM in a process of its own.

    engine_args: any of vLLM's `EngineArgs` by name. seed: of the engine's own generator; a run that is resumed, or
    another shard, should bring another one.
    """

    def __init__(
        self, policy: ModelTokenizer, dtype: str = "auto", seed: int = 0, engine_args: Mapping[str, Any] | None = None
    ):
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.policy, self.engine, self.started = policy, None, 0
        self.loop = asyncio.new_event_loop()
        arguments = _arguments(policy, dtype, seed) | _known(engine_args or {}, AsyncEngineArgs)
        console.log("starting vLLM")

        async def start() -> AsyncLLM:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

        try:
            with streams.stdout_to_stderr():  # its processes print what they like
                self.engine = self.loop.run_until_complete(start())
        except Exception as error:
            raise ReasonRLError(f"vLLM did not start: {_one_line(error)}") from None
        config = self.engine.vllm_config
        self.policy.context = min(policy.context, config.model_config.max_model_len)
        self.at_once = FULL_TWICE * config.scheduler_config.max_num_seqs * config.parallel_config.data_parallel_size
        if config.model_config.logprobs_mode != "raw_logprobs":
            console.warn(f"logprobs_mode={config.model_config.logprobs_mode}: `logprob` is not the model's own")
        self.adapter = None
        if is_adapter(policy.directory):
            from vllm.lora.request import LoRARequest

            self.adapter = LoRARequest("adapter", 1, policy.directory)

    def sample(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[list[Completion]]:
        """See `Engine.sample`. Raises RecordError for a prompt that leaves no room for a completion."""

        def submit(request: Request) -> asyncio.Task:
            self.policy.check_fits(request.id, request.prompt_ids)
            return self.loop.create_task(self._complete(request, sampling))

        def wait(tasks: set[asyncio.Task]) -> None:
            self.loop.run_until_complete(asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))

        return in_order(requests, submit, wait, max(2, -(-self.at_once // sampling.k)))

    async def _complete(self, request: Request, sampling: Sampling) -> list[Completion]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            n=1 if sampling.temperature == 0 else sampling.k,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, self.policy.context - len(request.prompt_ids)),
            stop=list(sampling.stop),
            stop_token_ids=sorted(self.policy.eos_ids),
            detokenize=bool(sampling.stop),  # only stop strings need vLLM's text; ours is decoded from the ids
            logprobs=0,  # of the drawn token alone
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self.started += 1
        name = f"{self.started}-{request.id}"
        assert self.engine is not None  # until `close`
        answers = self.engine.generate(
            {"prompt_token_ids": request.prompt_ids}, params, name, lora_request=self.adapter
        )
        try:
            outputs = [output async for output in answers][-1].outputs
        except Exception as error:
            raise ReasonRLError(f"{request.id}: vLLM failed: {_one_line(error)}") from None
        outputs.sort(key=lambda output: output.index)
        texts = self.policy.decode([list(output.token_ids) for output in outputs])
        drawn = [self._completion(output, text, sampling) for output, text in zip(outputs, texts, strict=True)]
        return drawn * (sampling.k // len(drawn))  # greedy ones are all alike, and vLLM draws one only

    def _completion(self, output: Any, text: str, sampling: Sampling) -> Completion:
        ids = list(output.token_ids)
        finish = "length"
        if output.finish_reason == "stop":
            finish = "eos" if ids[-1:] and ids[-1] in self.policy.eos_ids else "stop"
        elif output.finish_reason != "length":
            raise ReasonRLError(f"vLLM ended a completion with {output.finish_reason!r}")
        return Completion(ids, cut_at_stop(text, sampling.stop), list(output.logprobs.logprobs), finish)

    def close(self) -> None:
        """Ends vLLM's processes."""
        if self.engine:
            self.engine.shutdown(timeout=0)
            self.engine = None
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()


def _arguments(policy: ModelTokenizer, dtype: str, seed: int) -> dict[str, Any]:
    """The arguments that reasonrl itself sets; those of `--engine-arg` override them."""
    from vllm.platforms import current_platform

    own = "float32" if current_platform.is_cpu() else "auto"
    arguments = {
        "model": base_of(policy.directory),
        "tokenizer": policy.directory,
        "dtype": DTYPES.get(dtype, own),
        "seed": seed,
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if is_adapter(policy.directory):
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _lora_rank(policy.directory)}
    return arguments


def _lora_rank(directory: str) -> int:
    """The smallest rank that vLLM has kernels for and that holds the adapter's."""
    from vllm.config.lora import MaxLoRARanks

    adapter = jsonl.read_json(os.path.join(directory, "adapter_config.json"))
    needed = max([adapter["r"], *(adapter.get("rank_pattern") or {}).values()])
    offered = sorted(get_args(MaxLoRARanks))
    if needed > offered[-1]:
        raise UsageError(f"{directory}: vLLM takes adapters up to rank {offered[-1]}, this one has {needed}; merge it")
    return next(rank for rank in offered if rank >= needed)


def _known(engine_args: Mapping[str, Any], known: type) -> dict[str, Any]:
    """The arguments, with every name checked. Raises UsageError for one that vLLM does not have."""
    import difflib

    names = [field.name for field in dataclasses.fields(known)]
    for name in engine_args:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else "see vLLM's EngineArgs"
            raise UsageError(f"--engine-arg {name}: vLLM has no such argument; {hint}")
    return dict(engine_args)


def _one_line(error: Exception) -> str:
    """What an error says in its first line that is more than a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:  # pydantic: a count, the field, then the reason
        lines = [" ".join(lines[1:3])]
    return (lines or [type(error).__name__])[0][:300]
