"""The records that stages hand to each other, one JSON object a line. docs/records.md lists the fields.

Records are plain dictionaries: a stage keeps every field it does not own, and fields it has never heard of.
"""

import hashlib
from typing import Any

from reasonrl.errors import RecordError

Record = dict[str, Any]


def need(record: Record, *fields: str) -> None:
    """Raises RecordError if one of the fields is missing."""
    for field in fields:
        if field not in record:
            raise RecordError(f'no field "{field}"')


def need_text(record: Record, *fields: str) -> None:
    """Raises RecordError if one of the fields is missing or no string."""
    for field in fields:
        if type(record.get(field)) is not str:
            need(record, field)
            raise RecordError(f'field "{field}" is not a string')


def rewards_of(record: Record) -> dict[str, Any]:
    """The record's rewards by name, {} where it has none. Raises RecordError if they are no numbers by name."""
    rewards = record.get("rewards")
    if not rewards:
        return {}
    if type(rewards) is not dict or not all(type(reward) in (int, float, type(None)) for reward in rewards.values()):
        raise RecordError('field "rewards" is not an object of numbers')
    return rewards


def question_id(name: str, question: str) -> str:
    """The id of a problem that came without one: NAME/ and 12 hex digits of the question's hash."""
    return f"{name}/{hashlib.sha256(question.encode()).hexdigest()[:12]}"
