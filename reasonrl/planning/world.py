"""What the commands of a plan leave behind for those that follow: files, checkpoints, and what is assumed of them."""

import fnmatch
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from reasonrl.errors import UsageError
from reasonrl.io import jsonl
from reasonrl.planning import shapes
from reasonrl.planning.devices import Device, Draw
from reasonrl.planning.shapes import Shape
from reasonrl.settings import DataSettings, StageSettings, limits
from reasonrl.settings.shared import ProblemSettings

# Problems of each split; and, by family of model, mean tokens of a question in the plain form and of a reference with
# its EOS, on the test split (benchmarks/plan_check.py --lengths measures them), and tokens of `[GOOD]` and its newline.
# Llama's tokenizer is taken to be like SmolLM2's.
PROBLEMS = {"mini": (10_000, 1_000), "gsm8k": (7_473, 1_319), "svamp": (3_138, 1_000)}
LENGTHS = {
    ("mini", "tiny"): (37.8, 29.7),
    ("gsm8k", "tiny"): (109.3, 120.2),
    ("svamp", "tiny"): (70.1, 10.7),
    ("mini", "smollm2"): (45.5, 49.4),
    ("gsm8k", "smollm2"): (67.7, 96.0),
    ("svamp", "smollm2"): (47.6, 18.1),
}
# Tokens that training passes through for each that is not padding: 32 training examples, drawn at random, in one pass.
PADDING = {
    ("mini", "tiny"): 1.42,
    ("gsm8k", "tiny"): 2.10,
    ("svamp", "tiny"): 1.91,
    ("mini", "smollm2"): 1.42,
    ("gsm8k", "smollm2"): 1.92,
    ("svamp", "smollm2"): 1.80,
}
LABEL = {"tiny": 7, "smollm2": 5}


@dataclass(frozen=True)
class Assumptions:
    """What only a run can tell, and a plan must assume: `plan --assume NAME=VALUE`."""

    tokens: float = 0  # a completion of a trained policy; 0: as long as a reference
    start_tokens: float = 0  # a completion of a model that no command has trained; 0: as above
    keep: float = 0.3  # fraction of a trained policy's samples that a filter with a threshold keeps
    start_keep: float = 0.1  # the same, of any other model's samples
    again: float = 0.5  # of these, the fraction that an earlier file of the same filter has already
    longest: float = 0  # in-process engine on a GPU: the longest completion of a batch; 0: --max-tokens
    prefixes: float = 2.2  # rcrl: different prefixes of a solution that are completed
    rest: float = 0.4  # rcrl: a completion of a prefix, for each token of a solution
    learnt: float = 0.7  # rcrl: fraction of the solutions that balancing leaves
    exemplars: float = 0  # worked examples in a prompt that is a file
    padding: float = 0  # tokens that training passes through for each that is not padding; 0: as the data has it

    @classmethod
    def parse(cls, pairs: Sequence[str]) -> "Assumptions":
        known = [one.name for one in fields(cls)]
        values = {}
        for pair in pairs:
            name, _, text = pair.partition("=")
            try:
                values[name] = float(text)
            except ValueError:
                values[name] = math.nan
            if name not in known or not values[name] >= 0:
                raise UsageError(f"--assume {pair}: want NAME=NUMBER with one of {', '.join(known)}")
        return cls(**values)


@dataclass(frozen=True)
class Made:
    """What stands in a file: `count` records of so many questions. tokens: of a completion on average, 0 where nothing
    was drawn. How long a prompt is depends on who reads it: each model puts the question in its own form."""

    task: str
    count: float
    questions: float
    tokens: float = 0
    earlier: bool = False  # what a filter kept
    trained: bool = False  # drawn from a policy that a command has trained


@dataclass
class Cost:
    """Of one command. generated: tokens drawn; read: through forward passes only; learnt: forward and backward, padding
    included, once for each epoch. memory in bytes."""

    records: float = 0
    samples: float = 0
    generated: float = 0
    read: float = 0
    learnt: float = 0
    memory: float = 0.2e9
    seconds: float = 0
    no_room: str = ""  # why the model cannot draw at all


@dataclass
class World:
    """What the commands so far have made."""

    device: Device
    assume: Assumptions
    files: dict[str, Made] = field(default_factory=dict)
    checkpoints: dict[str, Shape] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)  # output → the command that makes it

    def shape(self, name: str) -> Shape:
        """Raises UsageError for a model that no command makes and whose size is not known."""
        name = name.rstrip("/")
        return self.checkpoints[name] if name in self.checkpoints else shapes.of_model(name)

    def prompt(self, task: str, shape: Shape, settings: StageSettings | None = None) -> float:
        """Mean tokens of a prompt: the question, and the worked examples before it, of --shots and of the form."""
        question, reference = lengths(task, shape)
        return question + (self.exemplars(shape, settings) + getattr(settings, "shots", 0)) * (question + reference)

    def exemplars(self, shape: Shape, settings: StageSettings | None) -> float:
        """Worked examples of the form that --prompt names (plain and chat have none), else of the remembered one."""
        form = getattr(settings, "prompt", None)
        return (self.assume.exemplars if "." in form else 0) if form else shape.exemplars

    def draw(self, task: str, shape: Shape, sequences: float, prompt: float, max_tokens: int) -> Draw:
        """Completions of a policy, as long as its context and --max-tokens let them be."""
        assumed = self.assume.tokens if shape.trained else self.assume.start_tokens
        most = max(1, min(max_tokens, shape.context - prompt))
        tokens = min(most, assumed or lengths(task, shape)[1])
        return Draw(sequences, prompt, tokens, max(tokens, min(most, self.assume.longest or most)), most)

    def problems(self, settings: ProblemSettings | DataSettings, files: Sequence[str] = ()) -> Made:
        task = settings.task or "mini"
        if files or task not in PROBLEMS:
            return self.read(files or (task,), settings.limit)
        count = PROBLEMS[task][settings.split == "test"]
        count = min(count, settings.limit or (count if settings.task else limits.EXAMPLE_PROBLEMS))
        if shard := getattr(settings, "shard", None):
            count = -(-count // int(shard.partition("/")[2]))
        return Made(task, count, count)

    def read(self, files: Sequence[str], limit: int | None = None) -> Made:
        """The records of several files together. Raises UsageError for one that nothing makes and that is not there."""
        made = []
        # What a shell would not find yet, it leaves as a pattern.
        matching = lambda name: fnmatch.filter(self.files, name) if "*" in name else [name]
        for name in (one for pattern in files for one in matching(pattern) or [pattern]):
            if name not in self.files:
                if not os.path.isfile(name):
                    raise UsageError(f"{name}: no earlier command makes it, and it is not there")
                self.files[name] = on_disk(name)
            made.append(self.files[name])
        count = sum(one.count for one in made) or 1
        tokens = sum(one.tokens * one.count for one in made) / count
        questions = max((one.questions for one in made), default=0)
        return replace(made[0], count=min(count, limit or count), questions=questions, tokens=tokens)


def on_disk(name: str) -> Made:
    count, tokens, task = 0, 0, "gsm8k"

    def visit(record: dict[str, Any], _: bytes) -> None:
        nonlocal count, tokens, task
        if not count:
            task = str(record.get("id", "")).partition("/")[0]
        count += 1
        tokens += len(record.get("completion_ids") or ())

    jsonl.each([jsonl.Reader(name)], visit)
    return Made(task, count, count, tokens / max(1, count))


def family(shape: Shape) -> str:
    """Whose tokenizer a model has, which its vocabulary gives away."""
    return "tiny" if shape.vocabulary < 1 << 13 else "smollm2"


def lengths(task: str, shape: Shape) -> tuple[float, float]:
    """Mean tokens of a question and of a reference, as this model's tokenizer counts them."""
    return LENGTHS.get((task, family(shape)), LENGTHS["gsm8k", family(shape)])


def padding(task: str, shape: Shape, parts: float = 1) -> float:
    """The same for padding. A step that is too long for one pass is sorted by length and cut in `parts`, which leaves
    about as many times less of it (measured for 2 and 4)."""
    whole = PADDING.get((task, family(shape)), PADDING["gsm8k", family(shape)])
    return 1 + (whole - 1) / parts
