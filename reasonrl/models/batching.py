"""Which sequences share a forward pass."""

from collections.abc import Iterator, Sequence


def batches_by_length(lengths: Sequence[int], max_tokens_per_batch: int) -> Iterator[list[int]]:
    """Indices of sequences of similar length together, longest first, as many as fit, padding included.

    A sequence that is longer than `max_tokens_per_batch` has a batch of its own.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > max_tokens_per_batch:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
