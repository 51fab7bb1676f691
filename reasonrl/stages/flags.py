"""Flags that several stages share: the same name and meaning everywhere, documented once."""

from enum import StrEnum
from typing import Annotated

import typer

from reasonrl.errors import UsageError


class OnError(StrEnum):
    fail = "fail"
    skip = "skip"


class Split(StrEnum):
    train = "train"
    test = "test"


class Answer(StrEnum):
    strict = "strict"
    flexible = "flexible"


class Backend(StrEnum):
    auto = "auto"
    hf = "hf"
    vllm = "vllm"
    openai = "openai"


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


def _argument(metavar: str, help: str):
    return typer.Argument(metavar=metavar, help=help, show_default=False)


def _option(*names: str, help: str, **more):
    return typer.Option(*names, help=help, **more)


Records = Annotated[list[str] | None, _argument("FILE|-", "JSONL files; default: stdin.")]
OutputFile = Annotated[str, _option("--output", "-o", metavar="FILE", help="Write here; `-` is stdout.")]
Checkpoint = Annotated[str, _option("--output", "-o", metavar="DIR", help="Write the checkpoint to this directory.")]
Force = Annotated[bool, _option("--force", "-f", help="Overwrite an existing output.")]
Resume = Annotated[bool, _option("--resume", help="Go on where an interrupted run stopped; keep a finished output.")]
Seed = Annotated[int, _option("--seed", min=0, help="Seed of every random choice.")]
Limit = Annotated[int | None, _option("--limit", min=1, metavar="N", help="Take only the first N.", show_default="all")]
Task = Annotated[
    str | None,
    _option("--task", metavar="TASK", help="Problems of this task: mini, gsm8k, svamp, or a JSONL or Python file.",
            show_default=False),
]  # fmt: skip
Path = Annotated[
    str | None,
    _option("--path", metavar="DIR", help="Directory of the task's files.", show_default="$REASONRL_DATA"),
]
SplitName = Annotated[Split, _option("--split", help="Which split of the task.")]
Model = Annotated[
    str,
    _option("--model", metavar="M", envvar="REASONRL_MODEL", show_envvar=False,
            help="Hub id, directory, adapter directory, .gguf file, or `tiny`.",
            show_default="$REASONRL_MODEL or tiny"),
]  # fmt: skip
OnErrorFlag = Annotated[OnError, _option("--on-error", help="What a bad input line does.")]
Rejects = Annotated[
    str | None, _option("--rejects", metavar="FILE", help="Skip bad lines and put them here.", show_default=False)
]
AnswerFlag = Annotated[
    Answer, _option("--answer", help="strict: only a marked final answer; flexible: else the last number.")
]
BatchTokens = Annotated[
    int | None, _option("--batch-tokens", min=1, metavar="N", help="Tokens in memory at a time.", show_default="auto")
]
Device = Annotated[
    str | None,
    _option("--device", metavar="D", help="Where the model runs: cpu, cuda, cuda:1, or mps.",
            show_default="the best there is"),
]  # fmt: skip
DType = Annotated[Precision, _option("--dtype", help="Precision. auto: bf16 on a GPU that has it, else fp32.")]
Attention = Annotated[
    str | None, _option("--attn", metavar="NAME", help="transformers' attention implementation.", show_default="sdpa")
]
BackendFlag = Annotated[
    Backend, _option("--backend", help="The engine. auto: openai with --base-url, vllm where it can run, else hf.")
]
BaseUrl = Annotated[
    str | None,
    _option("--base-url", metavar="URL", help="A completions server, such as http://localhost:8000/v1.",
            show_default=False),
]  # fmt: skip
Concurrency = Annotated[
    int | None,
    _option("--concurrency", min=1, metavar="N", help="Requests to the server at a time.", show_default="32"),
]
Timeout = Annotated[
    float | None,
    _option("--timeout", min=0.001, metavar="SECONDS", help="Wait this long for a server's answer.",
            show_default="600"),
]  # fmt: skip
Retries = Annotated[
    int | None,
    _option("--retries", min=0, metavar="N", help="Ask again when the server is down or busy.", show_default="10"),
]
EngineArg = Annotated[
    list[str] | None,
    _option("--engine-arg", metavar="KEY=VALUE", help="Any argument of vLLM, or field of a request; may be repeated.",
            show_default=False),
]  # fmt: skip


def parse_shard(text: str | None) -> tuple[int, int]:
    """`I/N` → (I, N), with 0 ≤ I < N."""
    if text is None:
        return 0, 1
    first, slash, second = text.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise UsageError(f"--shard {text}: want I/N with I from 0 to N-1, for example 0/4")
    return int(first), int(second)
