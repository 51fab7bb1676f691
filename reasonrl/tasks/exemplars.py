"""Worked examples before the question: `sample --shots N`.

They come from the training split, chosen by the seed, the same for every problem. A problem that is itself among them
gets a spare one in its place: its own solution would give the answer away.
"""

import hashlib
import random
from dataclasses import dataclass
from typing import Any

from reasonrl.errors import UsageError
from reasonrl.io.records import Record
from reasonrl.prompts import PromptForm
from reasonrl.tasks import source

BETWEEN = "\n\n"  # a solution and the next question


@dataclass(frozen=True)
class Exemplars:
    """`count` exemplars for each problem, from `pool`, which holds one more."""

    count: int
    pool: tuple[Record, ...]

    def of(self, problem: Record) -> list[Record]:
        """The exemplars of a problem; never the problem itself."""
        others = [shown for shown in self.pool if shown["question"] != problem["question"]]
        return others[: self.count]

    def render(self, problem: Record, form: PromptForm, tokenizer: Any = None) -> str:
        """What the model reads: the exemplars in the form of the prompt, then the question."""
        shown = self.of(problem)
        if form.template is not None:
            examples = ((form.render(exemplar["question"]), exemplar["reference"]) for exemplar in shown)
            before = "".join(f"{question}{reference}{BETWEEN}" for question, reference in examples)
            return before + form.render(problem["question"])
        if not getattr(tokenizer, "chat_template", None):
            return form.render(problem["question"], tokenizer)  # complains
        messages = []
        for exemplar in shown:
            messages.append({"role": "user", "content": exemplar["question"]})
            messages.append({"role": "assistant", "content": exemplar["reference"]})
        messages.append({"role": "user", "content": problem["question"]})
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def hash(self, problem: Record, form: PromptForm) -> str:
        """Identifies form and exemplars in a record, whose `prompt` holds neither."""
        if not self.count:
            return form.hash
        shown = [(exemplar["question"], exemplar["reference"]) for exemplar in self.of(problem)]
        return hashlib.sha256(repr((form.hash, shown)).encode()).hexdigest()[:12]


def pick(count: int, task: str | None, problems: list[Record], path: str | None, seed: int) -> Exemplars:
    """Exemplars for `problems` from the training split of `task` (None: the one that the problems' ids name).

    Raises UsageError if there is no such task, or too few worked solutions in it.
    """
    if count == 0:
        return Exemplars(0, ())
    named, *others = dict.fromkeys(str(problem["id"]).partition("/")[0] for problem in problems)
    if task is None and (others or named not in source.TASKS):
        raise UsageError(f"--shots {count}: name with --task the task or the file that exemplars come from")
    solved = [
        problem
        for problem in source.task_problems(task or named, "train", path)
        if type(problem.get("reference")) is str and "/test/" not in problem["id"]
    ]
    if len(solved) <= count:
        raise UsageError(f"--shots {count}: {task or named} has {len(solved)} worked training solutions, one too few")
    return Exemplars(count, tuple(random.Random(f"shots/{seed}").sample(solved, count + 1)))
