"""How a task in a Python file reads answers: in `score` and in `ppo`, through the same code."""

import json

import pytest
from conftest import lines

from reasonrl.errors import ReasonRLError
from reasonrl.rewards.registry import RewardResources, reward_specs
from reasonrl.rewards.scorer import RewardScorer
from reasonrl.tasks import user_file

COLOURS = """
def problems(split):
    return [{"question": "What colour is the sky?", "answer": "blue"}]

def extract(completion):
    return completion.split()[-1].strip(".") if completion else None
"""


def samples(*pairs):
    return [
        {"id": f"q/{n}", "k": 0, "completion": completion, "answer": answer, "temperature": 1.0, "finish": "eos"}
        for n, (completion, answer) in enumerate(pairs)
    ]


@pytest.fixture
def colours(tmp_path):
    (tmp_path / "colours.py").write_text(COLOURS)
    return str(tmp_path / "colours.py")


def scorer_of(task) -> RewardScorer:
    """What `ppo --task FILE.py` grades and scores with."""
    return RewardScorer(reward_specs(["exact"], []), RewardResources(), read=user_file.answer_reader(task))


CASES = samples(
    ("It is blue.", "blue"),
    ("It is #### 4 and red", "blue"),
    ("", "blue"),
    ("the answer is 1/2", "0.5"),
    ("It has 12 pens", "12"),
)


def test_answers_need_be_no_numbers(sh, colours):
    scored = sh("reasonrl score --task colours.py", stdin=lines(*CASES))
    assert scored.code == 0 and "40.0% correct (strict), 40.0% (flexible), 20.0% without a" in scored.err
    assert [r["extracted"] for r in scored.records] == ["blue", "red", None, "0.5", "pens"]
    assert [r["reward"] for r in scored.records] == [1, 0, 0, 1, 0]
    for r in scored.records:
        assert r["correct"] == r["correct_strict"] == r["correct_flexible"] == r["reward"]
    voted = sh("reasonrl score --task colours.py -q | reasonrl eval -q", stdin=lines(*CASES))
    assert voted.records[0]["unparseable"] == 0.2


def test_without_the_file_such_an_answer_is_an_error_that_names_the_way(sh):
    done = sh("reasonrl score", stdin=lines(CASES[0]))
    assert done.code == 1 and done.err.count("\n") == 1
    assert """<stdin>:1: field "answer" is not one number: 'blue' (a --task FILE.py may read""" in done.err


def test_a_task_file_is_an_ordinary_module(tmp_path):
    (tmp_path / "helper_of_task.py").write_text("ANSWER = '7'\n")
    (tmp_path / "module.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom helper_of_task import ANSWER\n"
        "@dataclass\nclass Rule:\n    text: str\n"
        "PROMPT = 'Q: {question}'\nSTOP = '\\nQ:'\ndef extract(text):\n    return ANSWER\n"
    )
    task = user_file.load(str(tmp_path / "module.py"))
    assert task.extract("") == "7"
    assert task.stop == ("\nQ:",)  # one text, not three characters


def test_ppo_grades_as_score_does(sh, colours):
    scored = sh("reasonrl score --task colours.py -q", stdin=lines(*CASES)).records
    scorer = scorer_of(colours)
    graded = [dict(record) for record in CASES]
    scorer.grade_all(graded)
    assert [score.reward for score in scorer(graded)] == [r["reward"] for r in scored]
    for record, wanted in zip(graded, scored, strict=True):
        assert record.items() <= wanted.items()


def test_ppo_trains_on_such_a_task(sh, colours):
    line = "--task colours.py --samples 8 --batch-size 4 --max-tokens 8 -q --device cpu"
    done = sh(f"reasonrl ppo {line} -o out && cat out/metrics.jsonl", timeout=120)
    assert done.code == 0, done.err
    logged = [json.loads(line) for line in done.out.splitlines()[1:]]
    assert len(logged) == 2 and all(line["unparseable"] < 1 for line in logged)  # no number, and yet parseable


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def extract(text):\n    return text[99]\n", "bad.py:2: IndexError: string index out of range, in extract("),
        ("def extract():\n    pass\n", "bad.py:1: TypeError: extract() takes 0 positional arguments"),
        ("def extract(text):\n    return [text]\n", "bad.py: extract gave list; want a string, a number or None"),
    ],
)
def test_a_reading_that_fails_is_reported_with_its_place_and_nothing_is_skipped(sh, tmp_path, text, complaint):
    (tmp_path / "bad.py").write_text(text)
    done = sh("reasonrl score --task bad.py --on-error skip --rejects bad.jsonl", stdin=lines(CASES[0]))
    assert done.code == 1 and done.out == b"" and done.err.count("\n") == 1
    assert done.err.startswith("reasonrl score: <stdin>:1: ") and complaint in done.err
    with pytest.raises(ReasonRLError, match=r"^q/0: "):
        scorer_of(str(tmp_path / "bad.py")).grade_all([dict(CASES[0])])


def test_a_file_without_a_reading_reads_numbers_and_a_missing_one_is_reported(sh, tmp_path):
    (tmp_path / "plain.py").write_text("PROMPT = '{question}'\n")
    stdin = lines(CASES[3])
    assert sh("reasonrl score --task plain.py", stdin=stdin).out == sh("reasonrl score", stdin=stdin).out
    assert sh("reasonrl score --task mini", stdin=stdin).out == sh("reasonrl score", stdin=stdin).out
    for task in ("nothing", "nothing.py"):
        done = sh(f"reasonrl score --task {task}", stdin=stdin)
        assert done.code == 2 and done.err == (
            f"reasonrl score: --task {task}: no such task; there are mini, gsm8k, svamp, or name a file\n"
        )
