"""SVAMP: equations worked out one step a line, and what the published files hold."""

import re
from fractions import Fraction

import pytest

from reasonrl.errors import RecordError, UsageError
from reasonrl.grading.verdict import grade
from reasonrl.tasks import source, svamp


@pytest.mark.parametrize(
    ("equation", "answer", "worked"),
    [
        ("( 8.0 - 3.0 )", "5", "8 - 3 = 5\n#### 5"),
        ("(25000 - (1500 * 8))", "13000", "1500 * 8 = 12000\n25000 - 12000 = 13000\n#### 13000"),
        ("((3 + 4) * (5 - 2))", "21", "3 + 4 = 7\n5 - 2 = 3\n7 * 3 = 21\n#### 21"),
        ("7 + 2", "9", "7 + 2 = 9\n#### 9"),
        ("(10 / 3)", "3.333", "10 / 3 = 3.333\n#### 3.333"),
        ("(0.16666666666666666 + 0.5)", "0.666667", "0.166667 + 0.5 = 0.666667\n#### 0.666667"),
        ("(34 * 4)", "134", "34 * 4 = 136\n#### 136"),
        ("8.0", "8", "#### 8"),
        ("((-2 * -15) * 4)", "120", "-2 * -15 = 30\n30 * 4 = 120\n#### 120"),
        ("(3 - 5)", "-2", "3 - 5 = -2\n#### -2"),
    ],
)  # fmt: skip
def test_an_equation_is_worked_out_one_step_a_line(equation, answer, worked):
    assert svamp.solution(equation, answer) == worked


@pytest.mark.parametrize("equation", ["", "(3 / 0)", "(3 + x)", "((3 + 4)", "3 + 4 + 5"])
def test_what_is_no_equation_is_refused(equation):
    with pytest.raises(RecordError, match="cannot be worked out"):
        svamp.solution(equation, "1")


@pytest.mark.parametrize("answer", ["1,000", "7 pens", ""])
def test_an_answer_that_is_no_plain_number_is_an_error_of_its_record(answer):
    with pytest.raises(RecordError, match='field "answer" is no plain number'):
        svamp.solution("( 3 + 4 )", answer)


def test_a_row_of_the_hub_is_the_same_problem():
    hub = {"ID": "chal-9", "Body": "Ann has 8 pens.", "Question": "She lost 3. How many?", "Equation": "( 8.0 - 3.0 )",
           "Answer": "5.0", "Type": "Subtraction"}  # fmt: skip
    assert svamp.to_problem(hub) == {
        "id": "svamp/test/chal-9", "question": "Ann has 8 pens. She lost 3. How many?", "answer": "5",
        "reference": "8 - 3 = 5\n#### 5", "equation": "( 8.0 - 3.0 )",
    }  # fmt: skip


def test_the_hub_has_no_training_folds(monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.delenv("REASONRL_DATA", raising=False)
    with pytest.raises(UsageError, match=r"no training folds.*--path DIR"):
        list(source.task_problems("svamp", "train"))


@pytest.mark.parametrize(
    ("task", "split", "count"),
    [("gsm8k", "train", 7473), ("gsm8k", "test", 1319), ("svamp", "train", 3138), ("svamp", "test", 1000)],
)
def test_published_files_load_and_their_references_are_right(data, task, split, count):
    problems = list(source.task_problems(task, split, str(data)))
    assert len(problems) == count == len({problem["id"] for problem in problems})
    wrong = [p["id"] for p in problems if not grade(p["reference"], p["answer"]).strict]
    assert wrong == [id for id in svamp.CONTRADICTORY if id.startswith(f"{task}/{split}/")]


def test_what_the_page_says_of_the_published_answers(data):
    """docs/tasks.md counts them: exact, rounded, neither; and those off by more than 0.001."""
    exactly, off = 0, []
    for problem in (p for split in ("train", "test") for p in source.task_problems("svamp", split, str(data))):
        value = eval(re.sub(r"\d+(?:\.\d+)?", r'Fraction("\g<0>")', problem["equation"]))
        exactly += value == Fraction(problem["answer"])
        if abs(value - Fraction(problem["answer"])) > Fraction("0.001"):
            off.append(problem["id"])
    assert (exactly, 4138 - exactly - len(svamp.CONTRADICTORY)) == (4071, 57)
    rounded = {f"svamp/train/{number}" for number in (121, 766, 1795, 1913)}
    assert len(off) == 13 and set(off) == rounded | set(svamp.CONTRADICTORY) - {"svamp/train/630"}
