"""A key-value cache for decoding: written in place, grown by blocks, its rows dropped as samples finish."""

from collections.abc import Iterable
from typing import cast

import torch
from transformers.cache_utils import Cache, DynamicLayer

BLOCK = 32  # positions by which a cache grows


class _Layer(DynamicLayer):
    """Keys and values of one attention layer, (rows, heads, capacity, head size); the first `length` are filled."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.store_keys, self.store_values = keys, values
        self.length = 0
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        """Appends (rows, heads, n, head size) and returns views of all that is filled."""
        end = self.length + key_states.shape[-2]
        self.store_keys[:, :, self.length : end] = key_states
        self.store_values[:, :, self.length : end] = value_states
        self.length = end
        return self.store_keys[:, :, :end], self.store_values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length


class DecodingCache(Cache):
    """Starts from the prompts' caches, each repeated for its k samples.

    prefixes: for each layer a pair (prompts, heads, width, head size), taken one by one. `reshape` must be
    called before the capacity runs out; it drops rows in the same copy.
    """

    def __init__(self, prefixes: Iterable[tuple[torch.Tensor, torch.Tensor]], k: int):
        layers: list[_Layer] = []
        for keys, values in prefixes:
            layer = _Layer(self._room(keys, k), self._room(values, k))
            layer.length = keys.shape[-2]
            layers.append(layer)
        super().__init__(layers=[*layers])

    @staticmethod
    def _room(prefix: torch.Tensor, k: int) -> torch.Tensor:
        prompts, heads, width, size = prefix.shape
        store = prefix.new_empty(prompts, k, heads, width + BLOCK, size)
        store[:, :, :, :width] = prefix[:, None]
        return store.view(prompts * k, heads, width + BLOCK, size)

    @property
    def _own(self) -> list[_Layer]:
        """The layers, all of the kind that they are made of above."""
        return cast("list[_Layer]", self.layers)

    @property
    def length(self) -> int:
        return self._own[0].length

    @property
    def full(self) -> bool:
        return self.length == self._own[0].store_keys.shape[-2]

    def reshape(self, rows: torch.Tensor | None) -> None:
        """Keeps the given rows (None: all), with room for another block."""
        for layer in self._own:
            layer.store_keys = self._moved(layer.store_keys, rows, layer.length)
            layer.store_values = self._moved(layer.store_values, rows, layer.length)

    @staticmethod
    def _moved(store: torch.Tensor, rows: torch.Tensor | None, length: int) -> torch.Tensor:
        count = store.shape[0] if rows is None else len(rows)
        moved = store.new_empty(count, store.shape[1], length + BLOCK, store.shape[3])
        moved[:, :, :length] = store[:, :, :length] if rows is None else store[rows, :, :length]
        return moved
