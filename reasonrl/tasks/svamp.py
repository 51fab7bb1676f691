"""SVAMP (Patel et al. 2021): 3,138 training questions (MAWPS and ASDiv-A) and a challenge set of 1,000 for testing.

SVAMP publishes an equation and no worked solution, so `reference` is built from the equation, one operation a line.
Results are spelled with at most six decimals, the last one as the source rounded it.
"""

import operator
import re
from fractions import Fraction

from reasonrl.errors import RecordError, UsageError
from reasonrl.io.records import Record, need_text

# Problems whose answer is not the value of their equation, however it is rounded: (40 / 7) is given as 5, (34 * 4) as
# 134. Their reference ends with the equation's value, so the exact reward of it is 0.
CONTRADICTORY = (
    *(f"svamp/train/{number}" for number in (286, 401, 596, 630, 1118, 1360, 1436, 1821, 1848)),
    "svamp/test/chal-680",
)

_NUMBER = re.compile(r"(?:(?<=[(\s])-)?\d+(?:\.\d+)?")  # a minus that touches its number is a sign
_OPERATION = re.compile(r"\(\s*#(\d+)\s*([-+*/])\s*#(\d+)\s*\)")
_APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def to_problem(raw: Record) -> Record:
    """A published row (question, equation, answer; or the hub's Body, Question, Equation, Answer) as a problem.

    The row's own id is kept. Raises RecordError if the equation is none.
    """
    if "Equation" in raw:
        question = raw.get("question_concat") or f"{raw['Body'].strip()} {raw['Question'].strip()}"
        raw = {
            "id": f"svamp/test/{raw['ID']}", "question": question, "equation": raw["Equation"],
            "answer": str(raw["Answer"]).removesuffix(".0"),
        }  # fmt: skip
    need_text(raw, "question", "equation", "answer")
    problem = {
        "question": raw["question"],
        "answer": raw["answer"],
        "reference": solution(raw["equation"], raw["answer"]),
    }
    return ({"id": raw["id"]} if "id" in raw else {}) | problem | {"equation": raw["equation"]}


def solution(equation: str, answer: str) -> str:
    """The equation worked out: `( ( 3 + 4 ) * 2 )` → "3 + 4 = 7\\n7 * 2 = 14\\n#### 14"."""
    values: list[Fraction] = []

    def name(value: Fraction) -> str:
        values.append(value)
        return f"#{len(values) - 1}"

    rest = _NUMBER.sub(lambda match: name(Fraction(match[0])), equation)
    rest = rest if "(" in rest else f"({rest})"
    done: list[tuple[str, Fraction]] = []

    def apply(match: re.Match) -> str:
        left, right = values[int(match[1])], values[int(match[3])]
        done.append((f"{_spell(left)} {match[2]} {_spell(right)}", _APPLY[match[2]](left, right)))
        return name(done[-1][1])

    try:
        while _OPERATION.search(rest):
            rest = _OPERATION.sub(apply, rest, count=1)
    except ZeroDivisionError:
        rest = ""
    if not re.fullmatch(r"#\d+|\(#\d+\)", rest.strip()):  # one equation is a bare number
        raise RecordError(f'field "equation" cannot be worked out: {equation!r}')
    value = values[-1]
    places = len(answer.partition(".")[2])
    try:
        last = answer if round(value, places) == Fraction(answer) else _spell(value)
    except ValueError:
        raise RecordError(f'field "answer" is no plain number: {answer!r}') from None
    results = [_spell(result) for _, result in done[:-1]] + [last] * bool(done)
    lines = [f"{step} = {result}" for (step, _), result in zip(done, results, strict=True)]
    return "\n".join([*lines, f"#### {last}"])


def _spell(value: Fraction) -> str:
    """A decimal of at most six places."""
    text = f"{float(round(value, 6)):.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def from_hub(split: str) -> list[Record]:
    """The rows of a split. The hub has the challenge set alone, itself cut in two, with ids chal-1 … chal-1000."""
    import datasets

    if split == "train":
        raise UsageError("svamp: the hub has no training folds; get them from the authors, and give --path DIR")
    rows = datasets.load_dataset("ChilleD/SVAMP", split="train+test")
    return sorted(rows, key=lambda row: int(row["ID"].removeprefix("chal-")))
