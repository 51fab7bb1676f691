"""How a question is put to a model.

Three forms: `plain` (`Question: … Answer:`), `chat` (the tokenizer's own chat template), or a file that holds a
template with `{question}` in it. A checkpoint remembers the form it was trained with, and its stop strings.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

from reasonrl.errors import UsageError

PLAIN = "Question: {question}\nAnswer:\n"
PLAIN_STOP = ("\nQuestion:",)  # a pretrained model continues with the next question


@dataclass(frozen=True)
class PromptForm:
    """A template with `{question}`, or None for the tokenizer's chat template; and where a completion ends."""

    name: str = "plain"
    template: str | None = PLAIN
    stop: tuple[str, ...] = field(default=PLAIN_STOP)

    def render(self, question: str, tokenizer: Any = None) -> str:
        """The prompt's text. A chat template may begin it with BOS; `LanguageModel.encode_prompt` keeps it to one."""
        if self.template is not None:
            return self.template.replace("{question}", question)
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError("this model's tokenizer has no chat template; use --prompt plain")
        message = [{"role": "user", "content": question}]
        return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)

    @property
    def hash(self) -> str:
        """Identifies the form in records, where only the rendered prompt stands."""
        return hashlib.sha256(repr((self.name, self.template)).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"stop": list(self.stop)}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "PromptForm":
        return cls(saved["name"], saved["template"], tuple(saved["stop"]))


def next_question(template: str) -> tuple[str, ...]:
    """Where a pretrained model continues with the next question: what stands before `{question}` on its line."""
    before = template.partition("{question}")[0].rpartition("\n")[2].rstrip()
    return (f"\n{before}",) if before else ()
