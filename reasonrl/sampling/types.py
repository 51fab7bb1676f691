"""Drawing completions from a policy: one interface, several engines.

An engine takes requests and yields, for each of them in order, its K completions. What a completion is drawn with
stands in `Sampling`; how the engine batches is its own affair and must not show in what is drawn.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from reasonrl.io.records import Record


@dataclass(frozen=True)
class Sampling:
    """How to draw. Temperature 0 is greedy; `top_p` 1 keeps the whole distribution."""

    k: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """One prompt to complete K times. `id` and the seed choose the random draws; `prompt_ids` include any BOS."""

    id: str
    prompt_ids: list[int]


@dataclass(frozen=True)
class Completion:
    """What one draw gave.

    ids: every generated token, EOS and the tokens of a stop string included. text: without EOS, cut at the stop
    string. logprobs: one per token, in nats, of the model at temperature 1; None where the engine does not give them.
    finish: "eos", "stop" or "length".
    """

    ids: list[int]
    text: str
    logprobs: list[float] | None
    finish: str


class Engine(Protocol):
    """What every backend offers."""

    def sample(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[list[Completion]]:
        """Yields K completions for each request, in the order of the requests, as soon as they are complete."""
        ...

    def close(self) -> None:
        """Hands back what the engine holds: processes, connections."""
        ...


def cut_at_stop(text: str, stop: Iterable[str]) -> str:
    """The text before the first stop string in it."""
    return text[: min((place for string in stop if (place := text.find(string)) >= 0), default=len(text))]


# What a sample has and a problem has not, but for what `to_record` writes anew. docs/records.md says what they are.
OF_SAMPLES = frozenset({
    "condition", "logprobs", "correct", "correct_strict", "correct_flexible", "extracted", "reward", "rewards",
    "step_rewards", "step_values", "start_value", "labels", "cost",
})  # fmt: skip


def to_record(
    problem: Record, k: int, prompt: Record, completion: Completion, common: Record, logprobs: bool = False
) -> Record:
    """The sample record of a problem's k-th completion. prompt: the prompt's fields. common: those that all
    samples of a run have in common.

    A problem that is itself a sample loses what was recorded of its completion; one that is none keeps all fields.
    """
    if "completion" in problem:
        problem = {name: value for name, value in problem.items() if name not in OF_SAMPLES}
    record = {**problem, "k": k, **prompt}
    record |= {
        "completion": completion.text,
        "completion_ids": completion.ids,
        "logprob": None if completion.logprobs is None else sum(completion.logprobs),
        "finish": completion.finish,
    }
    if logprobs:
        record["logprobs"] = completion.logprobs
    return record | common
