"""The steps of a solution: its lines, and where among its tokens they begin and end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonrl.grading.steps import step_ends, step_starts, steps

CASES = [  # the text of each token, steps, where they start, where they end
    ([], [], [0], []),
    (["a"], ["a"], [0], [0]),
    (["a", "b"], ["ab"], [0], [1]),
    (["a", "\n", "b"], ["a", "b"], [0, 2], [1, 2]),
    (["a", ".\n", "b", ""], ["a.", "b"], [0, 2], [1, 3]),  # EOS belongs to the last step
    (["a", "\n", "b", "\n"], ["a", "b"], [0, 2, 4], [1, 3]),
    (["a", "\n", "b", "\n", ""], ["a", "b"], [0, 2, 4], [1, 4]),  # EOS after a newline
    (["a", "\n", "\n", "b"], ["a", "b"], [0, 2], [1, 3]),  # an empty line is no step
    (["a", "\n", " ", "\n", "b"], ["a", "b"], [0, 2], [1, 4]),  # nor is one of white space
    (["\n", "a"], ["a"], [0], [1]),
    (["a\nb", "c"], ["a", "bc"], [0, 1], [0, 1]),
    (["a\n\nb", "\n", "\n"], ["a", "b"], [0, 1, 2], [0, 2]),
    (["a\nb\nc"], ["a", "b", "c"], [0, 1], [0, 0, 0]),  # one token ends two lines: one place to start after it
    (["a\nb\n", "c"], ["a", "b", "c"], [0, 1], [0, 0, 1]),
    (["a", "\n  "], ["a"], [0, 2], [1]),  # what follows the newline is no step
    (["a", "\n  ", "b"], ["a", "  b"], [0, 2], [1, 2]),
    (["\u2028", "a"], ["\u2028a"], [0], [1]),  # only a newline ends a line
    (["a\r", "\n", "b"], ["a\r", "b"], [0, 2], [1, 2]),
    ([" ", "\n", "\t\n"], [], [0], []),
    (["", ""], [], [0], []),
]


@pytest.mark.parametrize(("pieces", "lines", "starts", "ends"), CASES)
def test_steps_by_hand(pieces, lines, starts, ends):
    assert steps("".join(pieces)) == lines
    assert step_starts(pieces) == starts
    assert step_ends(pieces) == ends


PIECES = st.lists(st.sampled_from(["a", "b c", "\n", "a\n", "\n\n", " ", "a\nb", "\nb\n", ""]), max_size=12)


@given(PIECES, st.integers(0, 12))
def test_what_comes_later_moves_no_start(pieces, length):
    assert step_starts(pieces[:length]) == [start for start in step_starts(pieces) if start <= len(pieces[:length])]


@given(PIECES)
def test_each_step_has_one_end_and_the_last_is_at_the_last_token(pieces):
    ends = step_ends(pieces)
    assert len(ends) == len(steps("".join(pieces)))
    assert ends == sorted(ends) and ends[-1:] in ([], [len(pieces) - 1])


@given(PIECES)
def test_a_step_starts_after_the_end_of_the_one_before(pieces):
    """But for the first, which starts at the first token, and the last end, which is the last token's."""
    starts, ends = step_starts(pieces), step_ends(pieces)
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert set(starts[1:]) >= {end + 1 for end in ends[:-1]}
