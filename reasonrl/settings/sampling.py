"""`sample`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from reasonrl.settings.declare import setting
from reasonrl.settings.shared import MachineSettings, ModelSettings, OutputSettings, ProblemSettings, StopSettings


@dataclass(frozen=True, kw_only=True)
class SampleSettings(OutputSettings, MachineSettings, StopSettings, ModelSettings, ProblemSettings):
    STAGE: ClassVar[str] = "sample"

    shard: str | None = setting(None, "Every N-th problem from number I on.", "Problems", metavar="I/N", shown="all")
    k: int = setting(1, "Samples per problem.", "Sampling", "", "-k", bounds=(1, None))
    temperature: float = setting(1.0, "Sampling temperature; 0 is greedy.", "Sampling", bounds=(0, None))
    top_p: float = setting(1.0, "Draw from the most probable part only.", "Sampling", bounds=(0, 1))
    max_tokens: int = setting(256, "New tokens per sample.", "Sampling", bounds=(1, None))
    shots: int = setting(0, "Worked examples before the question, from the train split.", "Sampling", bounds=(0, None))
    condition: str | None = setting(
        None, "The label before each step of a policy made by rcrl.", "Sampling", metavar="LABEL",
        shown="its label of good steps",
    )  # fmt: skip
    logprobs: bool = setting(False, "Add the log-probability of every token.", "Sampling")
    seed: int = setting(0, "Seed of every random choice.", "Sampling", bounds=(0, None))
    dry_run: bool = setting(
        False, "Show the first prompt, its tokens and the plan; draw nothing.", "Output", role="manner"
    )
    backend: Literal["auto", "hf", "vllm", "openai"] = setting(
        "auto", "The engine. auto: openai with --base-url, vllm where it can run, else hf.", "Engine"
    )
    base_url: str | None = setting(
        None, "A completions server, such as http://localhost:8000/v1.", "Engine", metavar="URL", role="manner"
    )
    concurrency: int | None = setting(
        None, "Requests to the server at a time.", "Engine", shown="32", bounds=(1, None), role="manner"
    )
    timeout: float | None = setting(
        None, "Wait this long for a server's answer.", "Engine", metavar="SECONDS", shown="600", bounds=(0.001, None),
        role="manner",
    )  # fmt: skip
    retries: int | None = setting(
        None, "Ask again when the server is down or busy.", "Engine", shown="10", bounds=(0, None), role="manner"
    )
    engine_arg: tuple[str, ...] = setting(
        (), "Any argument of vLLM, or field of a request; may be repeated.", "Engine", metavar="KEY=VALUE"
    )
