"""The learned reward: a reward model's p(final answer correct | question, steps so far) at the end of every step.

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
from transformers import PreTrainedModel

from reasonrl.errors import TooLong
from reasonrl.grading.steps import step_ends, steps
from reasonrl.io import provenance
from reasonrl.io.records import Record
from reasonrl.models import checkpoint
from reasonrl.models.batching import batches_by_length
from reasonrl.models.language_model import ModelTokenizer
from reasonrl.models.reward_model import RewardModel, load_reward_model
from reasonrl.models.tokens import completion_ids, encode_by_line, prompt_text
from reasonrl.prompts import PromptForm
from reasonrl.rewards.base import Reward, RewardFailed, RewardResult
from reasonrl.settings import limits

WINDOW = 8  # batches whose solutions are sorted by length together


@dataclass(frozen=True)
class EncodedSolution:
    """A question and a solution as token ids; `ends` are the positions in `ids` where its steps end.

    The last of `ends` is the last position. A solution without a step has that one too, though no step ends there.
    The first `prompt` of `ids` are the question's.
    """

    ids: list[int]
    ends: list[int]
    prompt: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class SolutionEncoder:
    """Records → Solutions, for one reward model."""

    def __init__(self, known: ModelTokenizer, form: PromptForm):
        self.known, self.form = known, form
        self.tokenizer_hash = known.tokenizer_hash
        # The samples of a question come together: its prompt is tokenised once.
        self.encode_prompt = lru_cache(maxsize=256)(known.encode_prompt)

    def __call__(self, record: Record) -> EncodedSolution:
        """Raises RecordError for a record without a completion, TooLong for one that does not fit the context."""
        prompt_ids = self.encode_prompt(prompt_text(record, self.form, self.known.tokenizer))
        ids = completion_ids(record, self.known, self.tokenizer_hash)
        ends = step_ends(self.known.pieces(ids))
        if len(ends) != len(steps(record["completion"])):  # a token whose text depends on its neighbours
            ids, ends = encode_by_line(record["completion"], self.known, ids[-1:] == [self.known.eos_id])
        size = len(prompt_ids) + len(ids)
        if size > self.known.context:
            raise TooLong(f"{size} tokens do not fit the reward model's context of {self.known.context}")
        return EncodedSolution(prompt_ids + ids, [len(prompt_ids) + end for end in ends] or [size - 1], len(prompt_ids))


@torch.inference_mode()
def logits(
    model: PreTrainedModel, solutions: Sequence[EncodedSolution], max_tokens_per_batch: int
) -> list[list[float]]:
    """The reward model's logit at each of a solution's `ends`, solutions in their order."""
    per_solution: list[list[float]] = [[] for _ in solutions]
    for batch in batches_by_length([len(solution) for solution in solutions], max_tokens_per_batch):
        ids = np.zeros((len(batch), len(solutions[batch[0]])), dtype=np.int64)  # a causal model never sees the padding
        for row, index in enumerate(batch):
            ids[row, : len(solutions[index])] = solutions[index].ids
        values = model(input_ids=torch.from_numpy(ids).to(model.device), use_cache=False).logits[..., 0]
        values = values.float().cpu().numpy()
        for row, index in enumerate(batch):
            per_solution[index] = values[row, solutions[index].ends].tolist()
    return per_solution


class OutcomeReward(Reward):
    """A reward model as a reward: p at the end of the solution, and of every step.

    batch_tokens: padded tokens in one forward pass, which bounds the memory.
    """

    def __init__(self, reward_model: RewardModel, form: PromptForm, batch_tokens: int | None = None):
        self.reward_model = reward_model
        self.encode = SolutionEncoder(reward_model, form)
        on_cpu = reward_model.model.device.type == "cpu"
        self.batch_tokens = batch_tokens or (limits.CPU_REWARD_TOKENS if on_cpu else limits.GPU_REWARD_TOKENS)
        self.capacity = WINDOW * self.batch_tokens

    @property
    def about(self) -> dict[str, str | None]:
        """Which reward model it is; the hash is None for a hub id."""
        directory = self.reward_model.directory
        hashed = provenance.hash_files(directory) if os.path.isdir(directory) else None
        return {"name": self.reward_model.name, "directory": directory, "sha256": hashed}

    def prepare(self, record: Record) -> EncodedSolution:
        return self.encode(record)

    def size(self, prepared: EncodedSolution) -> int:
        return len(prepared)

    def score(self, records: Sequence[Record], prepared: Sequence[EncodedSolution]) -> list[RewardResult]:
        """Results with one `step_values` per step, in the order of the records."""
        per_record = logits(self.reward_model.model, prepared, self.batch_tokens)
        results = []
        for index, (record, values) in enumerate(zip(records, per_record, strict=True)):
            if not all(map(math.isfinite, values)):
                raise RewardFailed(f"the verifier gave {next(v for v in values if not math.isfinite(v))}", index)
            probabilities = [1 / (1 + math.exp(-value)) if value > -700 else 0.0 for value in values]
            stepless = len(probabilities) == 1 and not steps(record["completion"])
            results.append(RewardResult(probabilities[-1], step_values=[] if stepless else probabilities))
        return results


def load_reward(name: str, device: str | None, dtype: str, batch_tokens: int | None) -> OutcomeReward:
    """The reward of a checkpoint that `reasonrl orm` made. Raises UsageError for anything else."""
    reward_model = load_reward_model(name, device=device, dtype=dtype)
    form = checkpoint.remembered_form(reward_model.directory) or PromptForm()
    return OutcomeReward(reward_model, form, batch_tokens)
