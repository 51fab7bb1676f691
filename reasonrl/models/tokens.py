"""The token ids of a record: its prompt, and its completion as the policy drew it."""

import re
from typing import Any

from reasonrl.errors import RecordError
from reasonrl.io.records import Record, need_text
from reasonrl.models.language_model import ModelTokenizer
from reasonrl.prompts import PromptForm


def prompt_text(record: Record, form: PromptForm, tokenizer: Any) -> str:
    """What the model reads before the completion: the question in this model's form, else the record's own prompt."""
    if "question" in record:
        need_text(record, "question")
        return form.render(record["question"], tokenizer)
    need_text(record, "prompt")
    return record["prompt"]


def completion_ids(record: Record, model: ModelTokenizer, tokenizer_hash: str) -> list[int]:
    """Token ids of a sample's completion, with EOS if it ended and without if it ran out of tokens.

    A sample's own ids are used when this tokenizer made them (decoding and encoding again may give others) and they
    still spell the text, which somebody may have edited. Raises RecordError if the completion is no text or its ids
    are no ids.
    """
    need_text(record, "completion")
    text, finish = record["completion"], record.get("finish", "stop")
    ids = record.get("completion_ids") if record.get("tokenizer") == tokenizer_hash else None
    if ids is not None and not (type(ids) is list and all(type(token) is int for token in ids)):
        raise RecordError('field "completion_ids" is not a list of token ids')
    if ids and finish == "stop":
        ids = _without_stop_string(ids, text, model)
    elif ids and model.decode([ids])[0] != text:
        ids = None
    ids = list(ids) if ids else model.encode_completion(text)
    if finish != "length" and ids[-1:] != [model.eos_id]:
        if ids[-1:] and ids[-1] in model.eos_ids:
            ids.pop()
        ids.append(model.eos_id)
    return ids


def _without_stop_string(ids: list[int], text: str, model: ModelTokenizer) -> list[int] | None:
    """The ids that spell `text`; None if the stop string began in the middle of a token."""
    for length in range(len(ids), -1, -1):
        shown = model.decode([ids[:length]])[0]
        if shown == text:
            return ids[:length]
        if len(shown) < len(text):
            break
    return None


def encode_by_line(completion: str, model: ModelTokenizer, ended: bool) -> tuple[list[int], list[int]]:
    """The completion tokenised a line at a time, so that every newline ends a token → its ids, with EOS if it `ended`,
    and the index of the last token of each step."""
    ids: list[int] = []
    ends: list[int] = []
    for line in re.findall(r"[^\n]*\n|[^\n]+", completion):
        ids += model.encode_completion(line)
        if line.strip():
            ends.append(len(ids) - 1)
    ids += [model.eos_id] * ended
    return ids, [*ends[:-1], len(ids) - 1] if ends else []
