"""The task `mini`: a seeded, endless supply of small word problems in GSM8K's form.

A story is a chain of moves: a start, up to two turns, and an end that asks. `mini_scripts.py` holds the
moves as text and explains how they are written; here they are drawn, put into words and solved.

A problem is a pure function of its id: `mini/train/17` is one problem for ever. The hash of a question
decides which split it may belong to, so that splits are disjoint by construction. Besides `train` and
`test` there is an endless `pretrain`, which only the bundled model was made from. All choices rest on
`random.Random.random`, the one method whose sequence Python promises to keep.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from operator import add, floordiv, mul, sub
from random import Random
from typing import NamedTuple

from . import mini_scripts as scripts

SPLITS = {"train": 10_000, "test": 1_000}

LIMIT = 150
"""No result in any solution, right or wrong, is larger."""


class Dice:
    """Seeded choices that are the same on every version of Python."""

    def __init__(self, seed: str) -> None:
        self.random = Random(seed).random

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self.random() * (high - low + 1))

    def pick(self, options):
        return options[int(self.random() * len(options))]


class Earlier(NamedTuple):
    """An operand that is the result of an earlier step."""

    step: int


@dataclass(frozen=True)
class Step:
    """One line of a solution; `{=}` in its sentence stands for the equation worked out."""

    left: int | Earlier
    op: str
    right: int | Earlier
    sentence: str


@dataclass(frozen=True)
class Story:
    """A question and the steps that answer it."""

    question: str
    steps: tuple[Step, ...]

    def solve(self, slip: float = 0.0, seed: str = "") -> tuple[str, str]:
        """The solution, one step a line and `#### N` in the last, and N.

        With probability `slip` a step picks a wrong operation and works it out correctly; the later
        steps continue from there. Results stay whole numbers from 0 to LIMIT: where no wrong operation
        gives one, the right one is kept; where, after an earlier slip, the right one does not, another
        is picked. A difference is always taken from the larger number.
        """
        dice = Dice(seed)
        lines: list[str] = []
        results: list[int] = []
        for step in self.steps:
            left, right = (results[x.step] if isinstance(x, Earlier) else x for x in (step.left, step.right))
            ways = {op: way for op in "+-*/" if (way := _work_out(left, op, right))}
            wrong = [op for op in ways if op != step.op]
            slips = dice.random() < slip
            op = dice.pick(wrong) if wrong and (slips or step.op not in ways) else step.op
            equation, result = ways[op]
            lines.append(step.sentence.replace("{=}", equation))
            results.append(result)
        return "\n".join([*lines, f"#### {results[-1]}"]), str(results[-1])


def problems(split: str) -> Iterator[dict]:
    """The problem records of a split, in order; `pretrain` never ends."""
    for id, story in _stories(split):
        reference, answer = story.solve()
        yield {"id": id, "question": story.question, "answer": answer, "reference": reference}


def imperfect(split: str, slip: float, seed: int = 0) -> Iterator[dict]:
    """Like `problems`, but in the references each step slips with probability `slip` (see `Story.solve`).

    The `answer` stays the right one.
    """
    for id, story in _stories(split):
        reference, _ = story.solve(slip, f"{seed}/{id}")
        yield {"id": id, "question": story.question, "answer": story.solve()[1], "reference": reference}


# Drawing stories ---------------------------------------------------------------------------------


class Move(NamedTuple):
    """A paragraph of a script."""

    tellings: list[str]
    steps: list[tuple[list[str], list[str]]]
    """Pairs of an equation, as its words, and the ways to say it."""

    @property
    def numbers(self) -> set[str]:
        """The names of the numbers to draw."""
        return {word for equation, _ in self.steps for word in equation if word in scripts.RANGES}


class Theme(NamedTuple):
    """Scripts that go together, and the choices for their slots."""

    starts: list[Move]
    turns: list[Move]
    ends: list[Move]
    words: dict[str, list[str]]


def _stories(split: str) -> Iterator[tuple[str, Story]]:
    """(id, story) from 0 up; questions are unique."""
    if split not in (*SPLITS, "pretrain"):
        raise ValueError(f"mini has no split {split!r}, only train, test and pretrain")
    dice = Dice(f"mini/{split}")
    size = SPLITS.get(split)
    seen: set[str] = set()
    while size is None or len(seen) < size:
        story = _draft(dice)
        if story and _home(story.question) == split and story.question not in seen:
            yield f"mini/{split}/{len(seen)}", story
            seen.add(story.question)


def _home(question: str) -> str:
    """The one split a question may be in: of eight, one goes to test, three to train, four to pretrain."""
    bucket = blake2b(question.encode(), digest_size=1).digest()[0] % 8
    return "test" if bucket < 1 else "train" if bucket < 4 else "pretrain"


def _draft(dice: Dice) -> Story | None:
    """A story of 2 to 4 steps, or None where the draw makes no sense."""
    theme = dice.pick(THEMES)
    turns = [dice.pick(theme.turns) for _ in range(dice.between(0, 2))]
    moves = [dice.pick(theme.starts), *turns, dice.pick(theme.ends)]
    cast = [dice.pick(scripts.NAMES) for _ in range(len(moves) + 1)]
    if len(set(cast)) < len(cast) or len(set(map(id, moves))) < len(moves):
        return None

    words = {"A": cast.pop(), "place": dice.pick(scripts.PLACES), "=": "{=}"}
    for slot, choices in theme.words.items():
        words[slot] = dice.pick(choices)
        words[_plural(slot)] = _plural(words[slot])

    sentences: list[str] = []
    steps: list[Step] = []
    known: dict[str, tuple[int | Earlier, int]] = {"2": (2, 2)}  # name -> operand, its value
    for move in moves:
        numbers = {name: dice.between(*scripts.RANGES[name]) for name in sorted(move.numbers)}
        known |= {name: (number, number) for name, number in numbers.items()}
        slots = words | numbers | {"B": cast.pop(), "then": dice.pick(scripts.THEN) if sentences else ""}
        for equation, sayings in move.steps:
            if len(equation) == 1:
                known["y"] = known[equation[0]]
                continue
            (left, a), op, (right, b) = known[equation[0]], equation[1], known[equation[2]]
            way = _work_out(a, op, b)
            if way is None or way[1] < 2 or (op == "-" and a < b):
                return None
            known["y"] = (Earlier(len(steps)), way[1])
            steps.append(Step(left, op, right, dice.pick(sayings).format_map(slots)))
        known["x"] = known["y"]
        telling = dice.pick(move.tellings).format_map(slots)
        sentences.append(telling[0].upper() + telling[1:])
    return Story(" ".join(sentences), tuple(steps)) if 2 <= len(steps) <= 4 else None


def _work_out(left: int, op: str, right: int) -> tuple[str, int] | None:
    """The equation and its result, or None if that is not a whole number from 0 to LIMIT."""
    if op == "-":
        left, right = max(left, right), min(left, right)
    if op == "/" and (right == 0 or left % right):
        return None
    result = {"+": add, "-": sub, "*": mul, "/": floordiv}[op](left, right)
    return (f"{left} {op} {right} = {result}", result) if result <= LIMIT else None


def _moves(script: str) -> list[Move]:
    """The moves of a script: unindented lines, then indented ones."""
    moves: list[Move] = []
    indented = True
    for line in script.strip().splitlines():
        if indented and not line.startswith(" "):
            moves.append(Move([], []))
        if indented := line.startswith(" "):
            equation, _, sayings = line.strip().partition(" : ")
            moves[-1].steps.append((equation.split(), sayings.split(" | ")))
        else:
            moves[-1].tellings.append(line)
    return moves


def _themes(kind: str) -> Iterator[Theme]:
    """The themes of a kind of script, one for each line of its words."""
    starts, turns, ends, words, slots = (
        getattr(scripts, f"{kind}_{part}") for part in ("STARTS", "TURNS", "ENDS", "WORDS", "SLOTS")
    )
    first, later, last = (_moves(script) for script in (starts, turns, ends))
    for line in words.strip().splitlines():
        choices = [words_of_slot.split(", ") for words_of_slot in line.split(" : ")]
        yield Theme(first, later, last, dict(zip(slots, choices, strict=True)))


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("x", "ch", "sh", "s")) else "s")


THEMES = [theme for kind in ("STOCK", "MONEY", "EFFORT", "CROWD") for theme in _themes(kind)]
