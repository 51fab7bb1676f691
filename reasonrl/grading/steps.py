"""The steps of a solution: its non-empty lines, and where among its tokens they begin and end."""

from collections.abc import Sequence


def steps(completion: str) -> list[str]:
    """The steps of a solution: its non-empty lines."""
    return [line for line in completion.split("\n") if line.strip()]


def step_starts(pieces: Sequence[str]) -> list[int]:
    """Where a step begins, given the text of each token of a completion: [0, …], indices into `pieces`.

    Before the first token, and after each that holds the newline of a non-empty line. The tokens before a place decide
    it, so that it is the same while the completion is drawn; the last place may be after the last token.
    """
    return [0, *dict.fromkeys(index + 1 for index in _line_ends(pieces))]


def step_ends(pieces: Sequence[str]) -> list[int]:
    """Where the steps end, given the text of each token of a completion: one index per step.

    That of the token that holds the step's newline, and for the last step that of the last token.
    """
    ends = _line_ends(pieces)
    text_after = "".join(pieces[ends[-1] :]).rpartition("\n")[2] if ends else "".join(pieces)
    if text_after.strip():
        return [*ends, len(pieces) - 1]
    return [*ends[:-1], len(pieces) - 1] if ends else []


def _line_ends(pieces: Sequence[str]) -> list[int]:
    """The token that holds the newline of each non-empty line; twice the same where one token ends two of them."""
    ends: list[int] = []
    blank = True
    for index, piece in enumerate(pieces):
        first, *others = piece.split("\n")
        blank = blank and not first.strip()
        for line in others:
            if not blank:
                ends.append(index)
            blank = not line.strip()
    return ends
