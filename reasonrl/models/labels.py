"""The labels of a return-conditioned policy: what they say, and where among a completion's tokens they stand.

A label tells the policy, before each step, which return it should reach. Labels are read, never learned or drawn:
training and sampling both put them in with `interleave`, at the places that `step_starts` finds in the bare completion.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import NamedTuple, cast

import torch
from torch import nn

from reasonrl.errors import RecordError, UsageError
from reasonrl.grading.steps import step_starts, steps
from reasonrl.io.records import Record
from reasonrl.models import checkpoint
from reasonrl.models.language_model import LanguageModel, ModelTokenizer
from reasonrl.models.tokens import completion_ids, encode_by_line


@dataclass(frozen=True)
class Labels:
    """The text put before a step that does well, and before one that does not. It is tokenised by itself, so that the
    ids of a completion are the same with and without labels. Users name a label by its text without the newline."""

    good: str = "[GOOD]\n"
    bad: str = "[BAD]\n"

    @property
    def names(self) -> tuple[str, str]:
        return self.good.strip(), self.bad.strip()

    def to_json(self) -> dict[str, str]:
        return asdict(self)


TEXT, TOKENS = Labels(), Labels("[GOOD]", "[BAD]")


def trained_labels(directory: str) -> Labels | None:
    """The labels that a checkpoint was trained with; None for a policy that wants none."""
    saved = checkpoint.read_marker(directory).get("labels")
    return Labels(**saved) if saved else None


class Condition(NamedTuple):
    """What a policy is to be sampled with: the label put before each step, and the model's labels."""

    name: str
    text: str
    labels: Labels


def condition(name: str | None, directory: str, model: str) -> Condition | None:
    """What `--condition NAME` means for a model in `directory`, the good label by default; None for one without labels.

    Raises UsageError for a label that the model, called `model`, does not know.
    """
    labels = trained_labels(directory)
    if labels is None:
        if name is not None:
            raise UsageError(f"--condition {name}: {model} was not trained on labels (reasonrl rcrl makes one that is)")
        return None
    texts = dict(zip(labels.names, (labels.good, labels.bad), strict=True))
    name = labels.names[0] if name is None else name
    if name not in texts:
        raise UsageError(f"--condition {name}: {model} knows {' and '.join(texts)}")
    return Condition(name, texts[name], labels)


def add_tokens(policy: LanguageModel, labels: Labels) -> None:
    """Makes each label one token of the policy, in its tokenizer and in the embeddings of its inputs and outputs.

    A label stands where a line begins. So its row is that of the token that ends a line, which models attend to, plus
    noise of the old rows' spread for one label and minus it for the other, always the same. Not the rows of the tokens
    that spelt the label: where the model has never read these, they are all but equal, and the two labels would be too.
    Embeddings grow only where the vocabulary is not padded for more tokens than there are.
    """
    old, end_of_line = len(policy.tokenizer), policy.encode_completion(".\n")[-1]
    policy.tokenizer.add_special_tokens({"additional_special_tokens": list(labels.names)}, False)
    new = policy.tokenizer.convert_tokens_to_ids(list(labels.names))
    model = policy.model
    if (size := len(policy.tokenizer)) > cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0]:
        model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        layers = model.get_input_embeddings(), model.get_output_embeddings()  # their weights are one where tied
        for embeddings in cast("tuple[nn.Embedding, nn.Linear]", layers):
            known = embeddings.weight[:old].float()
            noise = torch.randn(known.shape[1], generator=torch.Generator().manual_seed(0)).to(known.device)
            apart = known.std(0) * noise
            rows = torch.stack([known[end_of_line] + apart, known[end_of_line] - apart])
            embeddings.weight[new] = rows.to(embeddings.weight.dtype)


def interleave(ids: Sequence[int], starts: Sequence[int], labels: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    """Puts labels[i] before ids[starts[i]] → the new ids, and for each of them the i it follows, −1 for a label's."""
    mixed: list[int] = []
    segments: list[int] = []
    for i, (start, end, label) in enumerate(zip(starts, [*starts[1:], len(ids)], labels, strict=True)):
        mixed += [*label, *ids[start:end]]
        segments += [-1] * len(label) + [i] * (end - start)
    return mixed, segments


@dataclass(frozen=True)
class Steps:
    """A completion as token ids with EOS, if it ended, and the places of its labels: `count` steps begin at the first
    `count` of `starts`. One more place, after a newline that no step follows, stands before EOS alone."""

    ids: list[int]
    starts: list[int]
    count: int

    def prefix(self, step: int) -> tuple[int, ...]:
        """The ids up to and including a step that is not the last."""
        return tuple(self.ids[: self.starts[step + 1]])


class StepEncoder:
    """Records → Steps, for one policy."""

    def __init__(self, policy: ModelTokenizer):
        self.policy, self.tokenizer_hash = policy, policy.tokenizer_hash
        self.encode_prompt = lru_cache(maxsize=256)(policy.encode_prompt)  # a question's samples come together

    def __call__(self, record: Record) -> Steps:
        """Raises RecordError for a record without a step in its completion."""
        ids = completion_ids(record, self.policy, self.tokenizer_hash)
        count = len(steps(record["completion"]))
        if not count:
            raise RecordError("the completion has no step: nothing to label")
        cut = self._cut(ids, count)
        if cut is None:  # a token whose text depends on its neighbours, or that ends two lines
            by_line, _ = encode_by_line(record["completion"], self.policy, ids[-1:] == [self.policy.eos_id])
            cut = self._cut(by_line, count)
        if cut is None:
            raise RecordError("this tokenizer does not end a line's tokens with the line: no place for labels")
        return cut

    def _cut(self, ids: list[int], count: int) -> Steps | None:
        starts = step_starts(self.policy.pieces(ids))
        if starts[-1] == len(ids):  # nothing to learn there
            starts.pop()
        return Steps(ids, starts, count) if 0 <= len(starts) - count <= 1 else None
