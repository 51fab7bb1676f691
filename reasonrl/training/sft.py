"""Supervised fine-tuning: maximum likelihood of completions, given their prompts.

    loss = − (1 / N) Σ log π(token | prompt, tokens before it)     over the N completion tokens of an update

`likelihood` does the learning; here stands what a record teaches.
"""

from reasonrl.errors import RecordError
from reasonrl.io.records import Record
from reasonrl.models.language_model import LanguageModel
from reasonrl.models.tokens import completion_ids, prompt_text
from reasonrl.prompts import PromptForm
from reasonrl.training.batching import Example


def to_example(record: Record, policy: LanguageModel, form: PromptForm, tokenizer_hash: str) -> Example:
    """What a record teaches: a sample its completion (see `models.tokens`), a problem its reference.

    Raises RecordError if there is nothing to learn.
    """
    prompt_ids = policy.encode_prompt(prompt_text(record, form, policy.tokenizer))
    if "completion" not in record:
        if type(record.get("reference")) is not str:
            raise RecordError('no field "completion" and no text in "reference": nothing to learn from')
        return Example(prompt_ids, [*policy.encode_completion(record["reference"]), policy.eos_id])
    ids = completion_ids(record, policy, tokenizer_hash)
    if not ids:
        raise RecordError("an empty completion that did not end: nothing to learn from")
    return Example(prompt_ids, ids)
