"""The shapes of models: how many parameters there are, and how many bytes a token of context takes."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reasonrl
from reasonrl.errors import UsageError

BUNDLED = Path(reasonrl.__file__).parent / "models"

# Models that may be planned for where they are not: a pattern of their name, and what their config.json says.
# (hidden, layers, intermediate, heads, key-value heads, vocabulary, tied embeddings, context)
KNOWN = {
    r"tiny[-_]small": (64, 2, 160, 4, 4, 2304, True, 512),
    r"smollm2(-135m.*)?": (576, 30, 1536, 9, 3, 49152, True, 8192),
    r"smollm2-360m.*": (960, 32, 2560, 15, 5, 49152, True, 8192),
    r"llama-?2-7b.*": (4096, 32, 11008, 32, 32, 32000, False, 4096),
    r"llama-?2-13b.*": (5120, 40, 13824, 40, 40, 32000, False, 4096),
}


@dataclass(frozen=True)
class Shape:
    """A Llama-like model. family: the name under which devices have measured rates for it. The last three are what an
    earlier command has made of it."""

    family: str
    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    context: int
    trained: bool = False  # it knows how a solution ends
    exemplars: float = 0  # worked examples in the prompt form that it remembers
    label: int = 0  # tokens of the label that it wants before each step; 0: none, it was not made by `rcrl`

    @property
    def kv_width(self) -> int:
        return self.hidden // self.heads * self.kv_heads

    @property
    def layer_parameters(self) -> int:
        attention = 2 * self.hidden * (self.hidden + self.kv_width)
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """Of the whole model, embeddings once or twice."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.hidden

    def adapter_parameters(self, rank: int) -> int:
        """Of a LoRA adapter on every linear layer: rank × (in + out) each."""
        wide, narrow = self.hidden + self.intermediate, self.hidden + self.kv_width
        return self.layers * rank * (2 * 2 * self.hidden + 2 * narrow + 3 * wide)

    def kv_bytes(self, itemsize: int) -> int:
        """Keys and values of one token."""
        return 2 * self.layers * self.kv_width * itemsize


def of_model(name: str) -> Shape:
    """The shape of a bundled model, a directory, or a known name. Raises UsageError for one that cannot be known."""
    directory = BUNDLED / name if name in ("tiny", "tiny-orm") else Path(name)
    if (adapter := directory / "adapter_config.json").exists():
        return of_model(json.loads(adapter.read_text())["base_model_name_or_path"])
    if (config := directory / "config.json").exists():
        return _of_config(json.loads(config.read_text()))
    # The name's last part, or the one before where a recipe gives the last part to all alike (tiny-small/tiny).
    for part in reversed(directory.parts[-2:]):
        for pattern, fields in KNOWN.items():
            if re.fullmatch(pattern, part.lower()):
                return Shape(_family(fields[0], fields[1]), *fields)
    raise UsageError(
        f"{name}: no earlier command makes it, and its size is not known; give a directory that holds its config.json"
    )


def _of_config(about: dict[str, Any]) -> Shape:
    heads = about["num_attention_heads"]
    return Shape(
        _family(about["hidden_size"], about["num_hidden_layers"]),
        about["hidden_size"], about["num_hidden_layers"], about["intermediate_size"], heads,
        about.get("num_key_value_heads") or heads, about["vocab_size"], bool(about.get("tie_word_embeddings")),
        about.get("max_position_embeddings") or 1 << 30,
    )  # fmt: skip


def _family(hidden: int, layers: int) -> str:
    return {(128, 2): "tiny", (64, 2): "tiny-small", (576, 30): "smollm2"}.get((hidden, layers), "other")
