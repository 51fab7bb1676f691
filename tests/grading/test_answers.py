r"""How answers are read and compared: tables of cases, laws, and texts made to break the reader."""

import time
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reasonrl.errors import RecordError
from reasonrl.grading import equations
from reasonrl.grading.answers import MAX_DIGITS, canonical, extract
from reasonrl.grading.verdict import grade

BOTH = [  # text, what both readings find
    ("#### 18", "18"),
    ("3 * 6 = 18\n#### 18", "18"),
    ("3 * 6 = 18\n#### 18\n", "18"),
    ("3 * 6 = 18\nA: 18", "18"),
    ("####18", "18"),
    ("#### 1,234", "1234"),
    ("#### 1,234,567.89", "1234567.89"),
    ("#### $1,234.50", "1234.5"),
    ("#### $18", "18"),
    ("#### \\$18", "18"),
    ("#### 5€", "5"),
    ("#### -5", "-5"),
    ("#### −5", "-5"),
    ("#### +5", "5"),
    ("#### -$5", "-5"),
    ("#### $-5", "-5"),
    ("#### -0", "0"),
    ("#### 0.50", "0.5"),
    ("#### .5", "0.5"),
    ("#### 5.", "5"),
    ("#### 00012", "12"),
    ("#### 1e3", "1000"),
    ("#### 50%", "50"),
    ("#### 20 %", "20"),
    ("#### 7 apples", "7"),
    ("#### Rs.500", "500"),
    ("#### Rs. 1,500.50", "1500.5"),
    ("#### 1e100", None),
    ("#### 1,2345", None),
    ("#### 18 dollars a day", "18"),
    ("#### 3/4", "0.75"),
    ("#### 6 / 4", "1.5"),
    ("#### 1.5/0.5", "3"),
    ("#### 1/3", "1/3"),
    ("#### -2/6", "-1/3"),
    ("#### 1 1/2 cups", "1.5"),
    ("#### -1 1/2", "-1.5"),
    ("#### 3 + 4 = 7", "7"),
    ("#### x = -7", "-7"),
    ("#### 2-3", "2"),
    ("#### **18**", "18"),
    ("\\boxed{42}", "42"),
    ("\\boxed{\\frac{3}{4}}", "0.75"),
    ("\\boxed{-\\dfrac{1}{2}}", "-0.5"),
    ("\\boxed{\\frac12}", "0.5"),
    ("\\boxed{1\\frac{1}{2}}", "1.5"),
    ("\\boxed{1{,}234}", "1234"),
    ("\\boxed{1\\,234}", "1234"),
    ("\\boxed{\\text{5 apples}}", "5"),
    ("The answer is 5.", "5"),
    ("So the final answer is: **$42**", "42"),
    ("Answer: 7", "7"),
    ("The answer is 8 because 3+5=8.", "8"),
    ("#### 5\n#### 6", "6"),  # the last mark counts
    ("\\boxed{5}, no, \\boxed{6}", "6"),
    ("#### 5\n#### ", "5"),  # that has a number
    ("A: 1\nQ: next? 33\nA: 2", "2"),
    ("#### " + "9" * MAX_DIGITS, "9" * MAX_DIGITS),
    ("#### 1/0", None),
    ("#### five", None),
    ("####", None),
    ("", None),
    ("#### " + "9" * (MAX_DIGITS + 1), None),
    ("#### 1e99", None),
    ("####½", None),
    (r"The answer is \boxed{18}. Check: 18 / 2 = 9.", "18"),  # nothing after the box
    (r"\boxed{42}, where x = 6", "42"),
    (r"\boxed{3 + 4 = 7}", "7"),
    (r"\boxed{18", "18"),
    ("The answer is 18. Check: 18 / 2 = 9.", "18"),  # nothing after a number that stands alone
    ("The answer is 18. (20 - 18 = 2 left over)", "18"),
    ("#### 18 (20 - 18 = 2 left over)", "18"),
    ("#### $1,234, for 1,200 + 34 = 1,234", "1234"),
    ("#### 2 (3 + 4) = 14", "14"),
    ("A: 5 + 3 = 8. 8 * 2 = 16.", "16"),
    ("A: On day 5 he has 3 * 4 = 12", "12"),
    ("#### 18 = 9 * 2", "18"),
    ("#### 20 - 2 = 18", "18"),
    ("#### 6/4 = 1.5", "1.5"),
    ("#### - 5", "-5"),
    ("#### -$ 5", "-5"),
    ("#### –5", "-5"),
    ("#### x = - 5", "-5"),
    ("#### 9 - 5", "9"),
    (r"\boxed{-\$5}", "-5"),
    (r"\boxed{\frac{-1}{2}}", "-0.5"),
    (r"\boxed{\frac{1}{-2}}", "-0.5"),
    (r"\boxed{\frac{1,000}{4}}", "250"),
    ("#### 7\n#### Step 3: check\nIt fits.", "7"),  # a heading is no mark
    ("#### Ratio 3:4", "3"),
    ("#### ５", None),  # digits of other scripts are no digits to us
]
FLEXIBLE_ONLY = [
    ("5 + 3 = 8", "8"),
    ("I think it is 5, or 7 cats", "7"),
    ("BANANA: 12", "12"),
    ("half of it, 1/2", "0.5"),
    ("#### none\nso 3", "3"),
    ("between 5-7", "7"),
    ("between 5 – 7", "7"),
    ("#### Step 3: total", "3"),
    ("#### **Part 2:** 5", "5"),
]


@pytest.mark.parametrize(("text", "answer"), BOTH)
def test_marked_answers(text, answer):
    assert extract(text) == extract(text, flexible=True) == answer


@pytest.mark.parametrize(("text", "answer"), FLEXIBLE_ONLY)
def test_answers_without_a_mark(text, answer):
    assert (extract(text), extract(text, flexible=True)) == (None, answer)


@pytest.mark.parametrize(
    ("completion", "answer", "strict", "flexible"),
    [
        ("#### 18", "18", True, True),
        ("#### 18.0", "18", True, True),
        ("#### 1,000", "1000", True, True),
        ("#### 1000", "1,000", True, True),
        ("#### 1/2", "0.5", True, True),
        ("#### 0.33", "1/3", False, False),
        ("#### -18", "18", False, False),
        ("it is 18", "18", False, True),
        ("no idea", "18", False, False),
        ("#### 17, I mean 18", "18", False, False),
        ("#### 180", "18", False, False),
    ],
)
def test_verdicts(completion, answer, strict, flexible):
    verdict = grade(completion, answer)
    assert (verdict.strict, verdict.flexible) == (strict, flexible)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "none",
        "1/0",
        "9" * 61,
        "2\\sqrt{3}",
        "\\frac{\\sqrt{3}}{2}",
        "(2,3)",
        "x^2 - 3x",
        "10^6",
        "3:2",
        "16, 20",
        "1,2345",
    ],
)
def test_a_problem_whose_answer_is_not_one_number_is_an_error(answer):
    with pytest.raises(RecordError, match="is not one number"):
        grade("#### 1", answer)


numbers = st.fractions(min_value=-(10**12), max_value=10**12, max_denominator=10**6)


def spellings(value: Fraction) -> list[str]:
    """Ways to write one rational."""
    sign, size = "-" if value < 0 else "", abs(value)
    whole, part = divmod(size.numerator, size.denominator)
    ways = [f"{sign}{size.numerator}/{size.denominator}", f"{sign}{3 * size.numerator}/{3 * size.denominator}"]
    ways.append(f"{sign}\\frac{{{size.numerator}}}{{{size.denominator}}}")
    if part:
        ways.append(f"{sign}{whole} {part}/{size.denominator}")
    else:
        ways += [
            f"{sign}{whole}",
            f"{sign}${whole:,}",
            f"{sign}{whole:,}.00",
            f"{sign}{whole}0/10",
            f"{sign}{whole:05}",
        ]
    return ways


@given(numbers)
@example(Fraction(0))
@example(Fraction(-1, 3))
def test_equal_rationals_have_one_spelling_and_it_spells_itself(value):
    read = {canonical(way) for way in spellings(value)}
    assert len(read) == 1, read
    (answer,) = read
    assert canonical(answer) == answer
    assert Fraction(answer) == value
    for way in spellings(value):
        for text in (f"so\n#### {way}", f"A: {way}", f"\\boxed{{{way}}}", f"the answer is {way}."):
            assert extract(text) == answer


@pytest.mark.parametrize("answer", ["- 5", "-$ 5", "–5", "-\\$5"])
def test_a_problem_s_answer_is_read_with_the_signs_of_a_solution_s(answer):
    assert canonical(answer) == extract(f"#### {answer}") == "-5"


@given(numbers, numbers)
def test_different_rationals_have_different_spellings(one, other):
    assert (canonical(str(one)) == canonical(str(other))) == (one == other)


@given(st.text(alphabet="0123456789,./-+−$%eE \\frac{}#A:\nboxed answeris=½", max_size=80))
@settings(max_examples=300)
def test_whatever_is_read_reads_as_itself_and_flexible_adds_only(text):
    strict, flexible = extract(text), extract(text, flexible=True)
    assert strict is None or strict == flexible
    for answer in (strict, flexible, canonical(text)):
        assert answer is None or (canonical(answer) == answer and len(answer) <= MAX_DIGITS)


@given(st.integers(-(10**17), 10**17), st.text(max_size=30))
def test_the_quick_way_reads_like_the_long_one(number, text):
    """A last line `#### N` is read by itself; with a blank after it, by the general rule."""
    assert extract(f"{text}\n#### {number}") == extract(f"{text}\n#### {number} ") == str(number)


MILLION = 1_000_000
ATTACKS = {
    "digits": "1" * MILLION,
    "groups": "1" + ",111" * (MILLION // 4) + "x",
    "many numbers": "1 " * (MILLION // 2),
    "numbers and spaces": ("1" + " " * 1000) * 1000,
    "slashes": "1/" * (MILLION // 2),
    "dots": "1." * (MILLION // 2),
    "exponents": "1e" * (MILLION // 2),
    "signs": "-" * MILLION,
    "marks": "#" * MILLION,
    "marks and equals": ("####" + "=" * 300 + "\n") * 3000,
    "boxes": "\\boxed{" * (MILLION // 7),
    "fractions": "\\frac{" * (MILLION // 6),
    "answers": ("answer" + " " * 1000) * 1000,
    "marked digits": ("####" + "1" * 5000 + "\n") * 200,
    "products": "1*" * (MILLION // 2) + "=",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_million_characters_are_read_in_bounded_time(attack):
    text = ATTACKS[attack] + "\nI say 5 cats"
    start = time.process_time()
    extract(text)
    assert extract(text, flexible=True) == "5"
    canonical(text)
    equations.chain(text)
    assert time.process_time() - start < 20  # 2 to 4 s: a few microseconds a character


@pytest.mark.parametrize(
    ("solution", "chain"),
    [
        ("Ann has 3 * 4 = 12 pens.\n#### 12", "3*4=12"),
        ("Ann has 3 x 4 = 12 pens.\nShe pays 12*2=$24.", "3*4=12;12*2=24"),
        ("3 × 4 = 12", "3*4=12"),
        ("12 ÷ 4 = 3", "12/4=3"),
        ("$1,000 + $5 = $1,005.", "1000+5=1005"),
        ("no equations  ", "no equations"),
    ],
)
def test_the_chain_of_equations(solution, chain):
    assert equations.chain(solution) == chain
