"""Where problems come from: a named task, a file, stdin, or the first few of `mini`."""

import itertools
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from reasonrl import console
from reasonrl.errors import ReasonRLError, RecordError, UsageError
from reasonrl.io import jsonl, streams
from reasonrl.io.records import Record, need_text, question_id
from reasonrl.settings import limits
from reasonrl.settings.shared import ProblemSettings
from reasonrl.tasks import gsm8k, mini, svamp, user_file

PUBLISHED = {"gsm8k": gsm8k, "svamp": svamp}
TASKS = ("mini", *PUBLISHED)


def task_problems(
    task: str, split: str, path: str | None = None, readers: list[jsonl.Reader] | None = None
) -> Iterator[Record]:
    """The problems of a task in their own order. `task` is a name, the user's JSONL or Python file, or `-`.

    The readers of the files that are read are added to `readers`.
    """
    readers = [] if readers is None else readers
    if task == "mini":
        return mini.problems(split)
    if task in PUBLISHED:
        rows = _published(task, split, path, readers)
        return ({"id": f"{task}/{split}/{number}"} | problem for number, problem in enumerate(rows))
    if task.endswith(".py"):
        return _own_problems(task, split)
    if task == "-" or Path(task).suffix in (".jsonl", ".gz", ".zst") or os.path.exists(task):
        readers += jsonl.inputs([task])
        return iter(read_problems(readers))
    raise UsageError(f"no task {task!r}; there are {', '.join(TASKS)}, or name a JSONL or a Python file")


def _published(task: str, split: str, path: str | None, readers: list[jsonl.Reader]) -> list[Record]:
    """Problems from DIR/TASK/SPLIT.jsonl or DIR/SPLIT.jsonl, DIR being `path` or $REASONRL_DATA; else from the hub."""
    to_problem = PUBLISHED[task].to_problem
    directory = path or os.environ.get("REASONRL_DATA")
    if directory:
        files = (Path(directory, task, f"{split}.jsonl"), Path(directory, f"{split}.jsonl"))
        file = next((str(file) for file in files if file.exists()), None)
        if file is None:
            raise UsageError(f"{directory}: neither {task}/{split}.jsonl nor {split}.jsonl is in it")
        rows: list[Record] = []
        readers.append(jsonl.Reader(file))
        jsonl.each(readers[-1:], lambda row, _: rows.append(to_problem(row)))
        return rows
    try:
        return [to_problem(row) for row in PUBLISHED[task].from_hub(split)]
    except UsageError:
        raise
    except ImportError:
        raise UsageError(f"{task}: set REASONRL_DATA, give --path DIR, or pip install 'reasonrl[hub]'") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ReasonRLError(
            f"{task}: the hub did not answer ({reason}); set REASONRL_DATA or give --path DIR"
        ) from None


def read_problems(readers: list[jsonl.Reader]) -> list[Record]:
    """Problems from JSONL: `question` and `answer` are enough, ids are made from the question where absent."""
    problems: list[Record] = []
    seen: set[str] = set()

    for reader in readers:
        # A pipe, also one that is named as a file (`<(…)`), has another name every time.
        name = Path(reader.path).name.split(".")[0] if os.path.isfile(reader.path) else "stdin"

        def visit(problem: Record, _: bytes, name: str = name) -> None:
            problems.append(_as_problem(problem, name, seen))

        jsonl.each([reader], visit)
    return problems


def _as_problem(problem: Record, name: str, seen: set[str]) -> Record:
    """A record with a `question`, completed; its id is added to `seen`. Raises RecordError for what is no problem."""
    need_text(problem, "question")
    answer = problem.get("answer", "")
    if type(answer) in (int, float):
        problem["answer"] = str(answer)
    elif type(answer) is not str:
        raise RecordError('field "answer" is neither a string nor a number')
    elif "####" in answer:
        problem |= gsm8k.to_problem(problem)
    problem.setdefault("reference", None)
    if "id" not in problem:
        problem = {"id": question_id(name, problem["question"])} | problem
    need_text(problem, "id")
    if problem["id"] in seen:
        raise RecordError(f"duplicate id {problem['id']!r}; ids must be unique")
    seen.add(problem["id"])
    return problem


def _own_problems(file: str, split: str) -> Iterator[Record]:
    """What `problems(split)` of a Python file gives, one at a time. Raises RecordError with the number of a bad one."""
    seen: set[str] = set()
    for number, problem in enumerate(user_file.load(file).problems(split)):
        try:
            if not isinstance(problem, dict):
                raise RecordError("not a dictionary")
            yield _as_problem(dict(problem), Path(file).stem, seen)
        except RecordError as error:
            raise RecordError(f"{file}: problems({split!r}), number {number}: {error}") from None


def problem_stream(
    files: Sequence[str],
    task: str | None,
    split: str,
    limit: int | None,
    *,
    path: str | None = None,
    shuffle_seed: int | None = None,
) -> tuple[Iterator[Record], list[jsonl.Reader]]:
    """The problems a stage is to work on, and the readers they came through.

    First that applies: files; an explicit task; stdin when it is a pipe or a file; else the first 16 of `mini`.
    Raises ReasonRLError if there are none: an upstream that failed must not turn into a run on something else.
    """
    readers: list[jsonl.Reader] = []
    if files or (task is None and streams.stdin_is_data()):
        readers = jsonl.inputs(files)
        if len(set(files)) < len(files):
            raise UsageError("the same file is given twice")
        stream = iter(read_problems(readers))
    elif task is None:
        limit = limit or limits.EXAMPLE_PROBLEMS
        console.log(f"no problems given: taking the first {limit} of mini ({split})")
        stream = mini.problems(split)
    else:
        stream = task_problems(task, split, path, readers)
    if shuffle_seed is not None:
        shuffled = list(stream)
        random.Random(shuffle_seed).shuffle(shuffled)
        stream = iter(shuffled)
    first = next(stream, None)
    if first is None:
        raise ReasonRLError("no problems: the input is empty (did the stage before this one fail?)")
    return itertools.islice(itertools.chain([first], stream), limit), readers


def problems(settings: ProblemSettings) -> tuple[list[Record], list[jsonl.Reader]]:
    """A list of what `problem_stream` gives for a stage's settings."""
    stream, readers = problem_stream(
        settings.problems, settings.task, settings.split, settings.limit, path=settings.path
    )
    return list(stream), readers
