"""How `sample` puts a question: worked examples, a task's own prompt, --dry-run."""

import json

import pytest

from reasonrl.prompts import next_question

TASK = """
PROMPT = "Add.\\nQ: {question}\\nA:"

def problems(split):
    for n in range(20):
        yield {"question": f"{n} + 1?", "answer": n + 1, "reference": f"{n} + 1 = {n + 1}\\n#### {n + 1}"}
"""


def planned(sh, line):
    done = sh(f"reasonrl sample --dry-run {line}")
    assert done.code == 0, done.err
    return done.records[0], done.err


def test_a_dry_run_shows_the_prompt_its_tokens_and_the_plan(sh, tmp_path):
    shown, stderr = planned(sh, "--task mini --limit 3 --k 4 --max-tokens 10 -o out.jsonl")
    assert shown["prompt"].startswith("Question: ") and shown["prompt"].endswith("\nAnswer:\n")
    assert len(shown["prompt_ids"]) == len(shown["tokens"])
    plan = shown["plan"]
    assert (plan["problems"], plan["k"], plan["most_new_tokens"], plan["backend"]) == (3, 4, 120, "hf")
    assert "| Answer:" in stderr and f"{len(shown['tokens'])} tokens: " in stderr
    assert list(tmp_path.iterdir()) == []


def test_shots_are_fixed_by_the_seed_and_never_the_problem_itself(sh):
    two = planned(sh, "--task mini --shots 2 --split test")[0]
    assert two == planned(sh, "--task mini --shots 2 --split test")[0]
    assert two["prompt"].count("Question: ") == 3 and two["prompt"].count("#### ") == 2
    assert all(name.startswith("mini/train/") for name in two["plan"]["shots_ids"])
    assert (
        two["plan"]["shots_ids"] != planned(sh, "--task mini --shots 2 --split test --seed 1")[0]["plan"]["shots_ids"]
    )
    exemplar = two["plan"]["shots_ids"][0]
    other = planned(sh, f"<(reasonrl data mini | grep '\"{exemplar}\"') --shots 2")[0]
    assert exemplar not in other["plan"]["shots_ids"] and len(other["plan"]["shots_ids"]) == 2


def test_shots_of_problems_of_several_tasks_want_a_name(sh):
    mixed = "(reasonrl data mini --limit 1; reasonrl data mini --limit 1 | sed 's|mini/train/0|svamp/train/0|')"
    for shard in ("", "--shard 0/2", "--shard 1/2"):  # each shard alone has one task
        done = sh(f"{mixed} | reasonrl sample --shots 1 --max-tokens 4 {shard}")
        assert done.code == 2 and "--shots 1: name with --task the task" in done.err


def test_records_say_which_shots_and_the_sidecar_shows_them(sh, tmp_path):
    done = sh("reasonrl sample --task mini --limit 2 --shots 1 --max-tokens 4 -o out.jsonl")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [r["shots"] for r in rows] == [1, 1] and rows[0]["prompt_hash"] == rows[1]["prompt_hash"]
    assert all(r["prompt"].count("Question: ") == 1 for r in rows)
    meta = json.loads((tmp_path / "out.jsonl.meta.json").read_text())
    assert len(meta["exemplars"]) == 2 and meta["exemplars"][0]["reference"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("p.jsonl --shots 1", "name with --task the task or the file"),
        ("--task p.jsonl --shots 1", "has 0 worked training solutions"),
    ],
)
def test_shots_need_worked_solutions(sh, tmp_path, line, complaint):
    (tmp_path / "p.jsonl").write_text('{"question": "1 + 1?", "answer": 2}\n')
    done = sh(f"reasonrl sample {line}")
    assert done.code == 2 and complaint in done.err.splitlines()[-1]


def test_a_task_in_a_python_file_brings_problems_and_prompt(sh, tmp_path):
    (tmp_path / "sums.py").write_text(TASK)
    shown, _ = planned(sh, "--task sums.py --shots 1 --limit 2")
    assert shown["prompt"].startswith("Add.\nQ: ") and shown["prompt"].endswith("Q: 0 + 1?\nA:")
    assert shown["plan"]["stop"] == ["\nQ:"] and shown["plan"]["first"].startswith("sums/")
    assert sh("reasonrl data sums.py --limit 1").records[0]["answer"] == "1"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1\n", "defines no function problems(split)"),
        ("x = 1 / 0\n", "own.py:1: ZeroDivisionError"),
        ("def problems(split):\n    return [{'answer': 3}]\n", 'number 0: no field "question"'),
    ],
)
def test_a_python_file_that_is_no_task(sh, tmp_path, text, complaint):
    (tmp_path / "own.py").write_text(text)
    done = sh("reasonrl data own.py")
    assert done.code in (1, 2) and complaint in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("template", "stop"),
    [("Q: {question}\nA:", ("\nQ:",)), ("Solve.\n\nProblem: {question}", ("\nProblem:",)), ("{question}\n", ())],
)
def test_a_prompt_file_stops_before_the_next_question(template, stop):
    assert next_question(template) == stop
