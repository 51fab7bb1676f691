"""Which sequences share a forward pass."""

from hypothesis import given
from hypothesis import strategies as st

from reasonrl.models.batching import batches_by_length


def test_batches_by_hand():
    assert list(batches_by_length([3, 9, 4, 2, 4], 8)) == [[1], [2, 4], [0, 3]]
    assert list(batches_by_length([3, 9, 4, 2, 4], 100)) == [[1, 2, 4, 0, 3]]
    assert list(batches_by_length([3, 3], 1)) == [[0], [1]]
    assert list(batches_by_length([], 8)) == []


@given(st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(1, 300))
def test_batches_keep_to_the_limit_lose_nothing_and_come_longest_first(lengths, max_tokens):
    batches = list(batches_by_length(lengths, max_tokens))
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= max_tokens
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(1, 300))
def test_a_batch_is_as_large_as_the_limit_allows(lengths, max_tokens):
    batches = list(batches_by_length(lengths, max_tokens))
    for batch in batches[:-1]:
        assert lengths[batch[0]] * (len(batch) + 1) > max_tokens
