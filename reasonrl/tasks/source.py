"""Where problems come from: a named task, a file, stdin, or the first few of `mini`."""

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

from reasonrl import console, jsonl
from reasonrl.errors import ReasonRLError, RecordError, UsageError
from reasonrl.records import Record, need_text, question_id
from reasonrl.tasks import gsm8k, mini

EXAMPLES = 16  # problems of `mini` that stand in when none are given at a terminal
PUBLISHED = {"gsm8k": gsm8k}


def task_problems(task: str, split: str, path: str | None = None) -> Iterator[Record]:
    """The problems of a task in their own order. `task` is a name, or a JSONL file of one's own."""
    if task == "mini":
        return mini.problems(split)
    if task in PUBLISHED:
        return PUBLISHED[task].problems(_published_rows(task, split, path), split)
    if Path(task).suffix in (".jsonl", ".gz", ".zst") or os.path.exists(task):
        return iter(read_problems([jsonl.Reader(task)]))
    raise UsageError(f"no task {task!r}; there are mini, {', '.join(PUBLISHED)}, or name a JSONL file")


def _published_rows(task: str, split: str, path: str | None) -> Iterator[Record]:
    """Rows from DIR/TASK/SPLIT.jsonl or DIR/SPLIT.jsonl, DIR being `path` or $REASONRL_DATA; else from the hub."""
    directory = path or os.environ.get("REASONRL_DATA")
    if directory:
        for file in (Path(directory, task, f"{split}.jsonl"), Path(directory, f"{split}.jsonl")):
            if file.exists():
                rows: list[Record] = []
                jsonl.each([jsonl.Reader(str(file))], lambda row, _: rows.append(row))
                return iter(rows)
        raise UsageError(f"{directory}: neither {task}/{split}.jsonl nor {split}.jsonl is in it")
    try:
        import datasets
    except ImportError:
        raise UsageError(f"{task}: set REASONRL_DATA, give --path DIR, or pip install 'reasonrl[hub]'") from None
    try:
        return iter(datasets.load_dataset(*PUBLISHED[task].HUB, split=split))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ReasonRLError(
            f"{task}: the hub did not answer ({reason}); set REASONRL_DATA or give --path DIR"
        ) from None


def read_problems(readers: list[jsonl.Reader]) -> list[Record]:
    """Problems from JSONL: `question` and `answer` are enough, ids are made from the question where absent."""
    found: list[Record] = []
    seen: set[str] = set()
    name = {reader.name: "stdin" if reader.path == "-" else Path(reader.path).name.split(".")[0] for reader in readers}

    for reader in readers:

        def visit(problem: Record, _: bytes, reader: jsonl.Reader = reader) -> None:
            need_text(problem, "question")
            if "####" in str(problem.get("answer", "")):
                problem |= gsm8k.to_problem(problem)
            if "answer" in problem:
                problem["answer"] = str(problem["answer"])
            problem.setdefault("reference", None)
            if "id" not in problem:
                problem = {"id": question_id(name[reader.name], problem["question"])} | problem
            if problem["id"] in seen:
                raise RecordError(f"duplicate id {problem['id']!r}; ids must be unique")
            seen.add(problem["id"])
            found.append(problem)

        jsonl.each([reader], visit)
    return found


def problems(
    files: list[str],
    task: str | None,
    split: str,
    limit: int | None,
    *,
    path: str | None = None,
    shuffle_seed: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> tuple[list[Record], list[jsonl.Reader]]:
    """The problems a stage is to work on, and the readers they came through.

    First that applies: files; an explicit task; stdin when it is a pipe or a file; else the first 16 of `mini`.
    `shard` (I, N) then takes every N-th problem from the I-th on.
    """
    readers: list[jsonl.Reader] = []
    if files or (task is None and jsonl.stdin_is_data()):
        readers = jsonl.inputs(files)
        if any(len(list(group)) > 1 for _, group in itertools.groupby(sorted(files))):
            raise UsageError("the same file is given twice")
        found = iter(read_problems(readers))
    elif task is None:
        console.log(f"no problems given: taking the first {limit or EXAMPLES} of mini ({split})")
        found, limit = mini.problems(split), limit or EXAMPLES
    else:
        found = task_problems(task, split, path)
    if shuffle_seed is not None:
        found = list(found)
        random.Random(shuffle_seed).shuffle(found)
    chosen = list(itertools.islice(found, limit))
    if not chosen:
        raise ReasonRLError("no problems: the input is empty (did the stage before this one fail?)")
    first, count = shard
    return chosen[first::count], readers
