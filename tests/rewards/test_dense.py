"""The dense reward: which steps earn what, and that the parts sum to the whole."""

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonrl.grading.steps import steps
from reasonrl.rewards import dense
from reasonrl.tasks import mini

REFERENCE = "She eats 3 + 4 = 7 eggs.\nSo 16 - 7 = 9 are left.\nThey cost 9 * 2 = $18.\n#### 18"


def earned(completion, correct, reference=REFERENCE, answer="18"):
    return dense.step_rewards(completion, correct, reference, answer)


def test_the_reference_itself_earns_everything():
    assert earned(REFERENCE, True) == [0.25, 0.25, 0.0, 1.0]


def test_a_step_earns_what_it_results_in_even_where_the_answer_is_wrong():
    assert earned("16 - 3 = 13\n3 + 4 = 7 too\nleft: 13 * 2 = 26\n#### 26", False) == [0.0, 0.25, 0.0, 0.0]


def test_each_result_counts_once_and_where_it_first_stands():
    assert earned("3 + 4 = 7\n4 + 3 = 7\n16 - 7 = 9\n#### 9", False) == [0.25, 0.0, 0.25, 0.0]


def test_one_line_may_earn_several_and_spelling_is_canonical():
    assert earned("3+4=7.0 and 16-7 = $9.00, 9*2 = 18\n#### 18", True) == [0.5, 1.0]


def test_the_final_answer_is_no_intermediate_result():
    assert earned("16 + 2 = 18\n#### 18", True) == [0.0, 1.0]


def test_without_intermediate_results_only_the_answer_counts():
    assert earned("9 * 2 = 18\n#### 18", True, reference="It is 9 * 2 = 18.\n#### 18") == [0.0, 1.0]
    assert earned("", False) == []


@pytest.mark.parametrize(
    "step, numbers",
    [
        ("3 * 4 = 12 apples", {"12"}),
        ("= $1,200.", {"1200"}),
        ("3 * 4 = 12 + 5 = 17", {"17"}),
        ("16 - 3 = <<16-3=13>>13 ducks", {"13"}),
        ("a = 1.5, b = -2.", {"1.5", "-2"}),
        ("2.5 * 2 = 2.5 + 2.5", set()),
        ("= 1,200 - 7", set()),
        ("= 5 x 3", set()),
        ("= 5 xylophones", {"5"}),
        ("half is .5 = 0.50", {"0.5"}),
        ("12 apples, no sum", set()),
        ("=", set()),
    ],
)
def test_results_of_a_step(step, numbers):
    assert dense.results(step) == numbers


@given(st.text(alphabet="=123.,$ +-\n#", max_size=80), st.booleans())
def test_step_rewards_are_one_a_step_and_bounded(completion, correct):
    parts = earned(completion, correct)
    assert len(parts) == len(steps(completion))
    assert 0 <= sum(parts) <= dense.CREDIT + 1 + 1e-9
    if not correct or not parts:
        assert sum(parts) <= dense.CREDIT + 1e-9


def test_no_wrong_solution_of_mini_earns_what_a_right_one_does():
    for problem, _ in zip(mini.problems("test"), range(50), strict=False):
        right = sum(earned(problem["reference"], True, problem["reference"], problem["answer"]))
        spam = "\n".join(f"{n} = {n}" for n in range(2000))
        assert sum(earned(spam, False, problem["reference"], problem["answer"])) < 1 <= right


@pytest.mark.parametrize("text", ["=" * 200_000, "= 1" * 100_000, "=" + "1," * 200_000, "= " + "1" * 300_000])
def test_no_text_hangs_the_reader(text):
    start = time.perf_counter()
    dense.results(text)
    assert time.perf_counter() - start < 2


def test_it_needs_no_torch():
    code = "import sys, reasonrl.rewards.dense, reasonrl.rewards.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
