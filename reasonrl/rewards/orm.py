"""The learned reward: a verifier's p(final answer correct | question, steps so far) at the end of every step.

A step is a non-empty line. It is scored at the token that holds its newline, the last one at EOS (at the last token of
a sample that ran out of them). The model is causal and padding stands on the right, so one forward pass gives the
scores of all prefixes, and none depends on what follows it.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from reasonrl import provenance
from reasonrl.console import Stopwatch
from reasonrl.errors import TooLong
from reasonrl.models import checkpoint
from reasonrl.models.encoding import completion_ids, prompt_text
from reasonrl.models.policy import Policy
from reasonrl.models.verifier import load_verifier
from reasonrl.records import Record, steps
from reasonrl.rewards.external import Failed
from reasonrl.rewards.named import Credit, Reward
from reasonrl.tasks.prompts import PromptForm

WINDOW = 8  # batches whose solutions are sorted by length together


@dataclass(frozen=True)
class Solution:
    """A question and a solution as token ids; `ends` are the positions in `ids` where its steps end.

    The last of `ends` is the last position. A solution without a step has that one too, though no step ends there.
    The first `prompt` of `ids` are the question's.
    """

    ids: list[int]
    ends: list[int]
    prompt: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class Encoder:
    """Records → Solutions, for one verifier."""

    def __init__(self, policy: Policy, form: PromptForm):
        self.policy, self.form = policy, form
        self.tokenizer_hash = policy.tokenizer_hash
        # The samples of a question come together: its prompt is tokenised once.
        self.encode_prompt = lru_cache(maxsize=256)(policy.encode_prompt)

    def __call__(self, record: Record) -> Solution:
        """Raises RecordError for a record without a completion, TooLong for one that does not fit the context."""
        prompt_ids = self.encode_prompt(prompt_text(record, self.form, self.policy.tokenizer))
        ids = completion_ids(record, self.policy, self.tokenizer_hash)
        ends = step_ends(self.policy.pieces(ids))
        if len(ends) != len(steps(record["completion"])):  # a token whose text depends on its neighbours
            ids, ends = self._line_by_line(record["completion"], ids[-1:] == [self.policy.eos_id])
        size = len(prompt_ids) + len(ids)
        if size > self.policy.context:
            raise TooLong(f"{size} tokens do not fit the reward model's context of {self.policy.context}")
        return Solution(prompt_ids + ids, [len(prompt_ids) + end for end in ends] or [size - 1], len(prompt_ids))

    def _line_by_line(self, completion: str, ended: bool) -> tuple[list[int], list[int]]:
        """The completion tokenised a line at a time, so that every newline ends a token."""
        ids: list[int] = []
        ends: list[int] = []
        for line in completion.split("\n"):
            ids += self.policy.encode_completion(f"{line}\n")
            if line.strip():
                ends.append(len(ids) - 1)
        ids += [self.policy.eos_id] * ended
        return ids, [*ends[:-1], len(ids) - 1] if ends else []


def step_ends(pieces: Sequence[str]) -> list[int]:
    """Where the steps of a completion end, given the text of each of its tokens.

    One index a non-empty line: of the token that holds its newline, and for the last one that of the last token.
    """
    ends: list[int] = []
    blank = True
    for index, piece in enumerate(pieces):
        first, *others = piece.split("\n")
        blank = blank and not first.strip()
        for line in others:
            if not blank:
                ends.append(index)
            blank = not line.strip()
    if not blank:
        ends.append(len(pieces) - 1)
    elif ends:
        ends[-1] = len(pieces) - 1
    return ends


def batches(solutions: Sequence[Solution], most_tokens: int) -> list[list[int]]:
    """Indices of solutions of similar length together, as many as fit `most_tokens`, padding included."""
    found: list[list[int]] = []
    for index in sorted(range(len(solutions)), key=lambda i: -len(solutions[i])):
        width = len(solutions[found[-1][0]]) if found else 0
        if not found or width * (len(found[-1]) + 1) > most_tokens:
            found.append([])
        found[-1].append(index)
    return found


@torch.inference_mode()
def logits(model: torch.nn.Module, solutions: Sequence[Solution], most_tokens: int) -> list[list[float]]:
    """The verifier's logit at each of a solution's `ends`, solutions in their order."""
    found: list[list[float]] = [[] for _ in solutions]
    for batch in batches(solutions, most_tokens):
        ids = np.zeros((len(batch), len(solutions[batch[0]])), dtype=np.int64)  # nobody looks at the padding
        for row, index in enumerate(batch):
            ids[row, : len(solutions[index])] = solutions[index].ids
        values = model(input_ids=torch.from_numpy(ids).to(model.device), use_cache=False).logits[..., 0]
        values = values.float().cpu().numpy()
        for row, index in enumerate(batch):
            found[index] = values[row, solutions[index].ends].tolist()
    return found


class OutcomeReward(Reward):
    """The verifier as a reward: p at the end of the solution, and of every step.

    batch_tokens: padded tokens in one forward pass, which bounds the memory.
    """

    def __init__(self, verifier: Policy, form: PromptForm, batch_tokens: int | None = None):
        self.verifier = verifier
        self.prepare = Encoder(verifier, form)
        self.batch_tokens = batch_tokens or (1 << 13 if verifier.model.device.type == "cpu" else 1 << 16)
        self.capacity = WINDOW * self.batch_tokens
        self.tokens, self.seconds = 0, 0.0

    @property
    def about(self) -> dict[str, str | None]:
        """Which verifier it is; the hash is None for a hub id."""
        directory = self.verifier.directory
        hashed = provenance.hash_files(directory) if os.path.isdir(directory) else None
        return {"name": self.verifier.name, "directory": directory, "sha256": hashed}

    def size(self, prepared: Solution) -> int:
        return len(prepared)

    def judge(self, records: Sequence[Record], prepared: Sequence[Solution]) -> list[Credit]:
        """Credits with one `step_values` a step, in the order of the records."""
        watch = Stopwatch()
        found = logits(self.verifier.model, prepared, self.batch_tokens)
        self.seconds += watch.seconds
        self.tokens += sum(map(len, prepared))
        credits = []
        for index, (record, values) in enumerate(zip(records, found, strict=True)):
            if not all(map(math.isfinite, values)):
                raise Failed(f"the verifier gave {next(v for v in values if not math.isfinite(v))}", index)
            chances = [1 / (1 + math.exp(-value)) if value > -700 else 0.0 for value in values]
            stepless = len(chances) == 1 and not steps(record["completion"])
            credits.append(Credit(chances[-1], step_values=[] if stepless else chances))
        return credits


def load_reward(name: str, device: str | None, dtype: str, batch_tokens: int | None) -> OutcomeReward:
    """The reward of a checkpoint that `reasonrl orm` made. Raises UsageError for anything else."""
    verifier = load_verifier(name, device=device, dtype=dtype)
    return OutcomeReward(verifier, checkpoint.prompt_form(verifier.directory) or PromptForm(), batch_tokens)
