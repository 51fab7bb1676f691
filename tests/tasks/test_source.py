"""Where problems come from, and what `data` makes of them."""

import hashlib
import json
import subprocess

import pytest
from conftest import lines

QUESTION = {"question": "What is 1 + 1?", "answer": "2"}


def test_mini_is_one_list_for_ever(sh):
    whole = sh("reasonrl data mini --limit 300").records
    assert [problem["id"] for problem in whole] == [f"mini/train/{n}" for n in range(300)]
    assert sh("reasonrl data mini --limit 3").records == whole[:3]
    assert sh("reasonrl data mini --split test --limit 1").records[0]["id"] == "mini/test/0"
    for problem in whole:
        assert list(problem) == ["id", "question", "answer", "reference"]
        assert problem["reference"].endswith(f"\n#### {problem['answer']}")


def test_a_seed_shuffles_and_nothing_else(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(*({"question": f"{n}?", "answer": str(n)} for n in range(50))))
    plain = sh("reasonrl data in.jsonl").out.splitlines()
    one, same, other = (sh(f"reasonrl data in.jsonl --seed {seed}").out.splitlines() for seed in (1, 1, 2))
    assert one == same != other != plain
    assert sorted(one) == sorted(other) == sorted(plain)
    assert sh("reasonrl data in.jsonl --seed 1 --limit 5").out.splitlines() == one[:5]


def test_a_problem_file_needs_little(sh, tmp_path):
    rows = [
        QUESTION | {"extra": [1, {"a": None}]},
        {"id": "my/1", "question": "What is 2 + 2?", "answer": 4},
        {"question": "What is 3 + 3?", "answer": "3 + 3 = <<3+3=6>>6\n#### 6", "level": 1},
        {"question": "And without an answer?"},
    ]
    (tmp_path / "my.jsonl").write_bytes(lines(*rows))
    first, second, third, fourth = sh("reasonrl data my.jsonl").records
    digest = hashlib.sha256(QUESTION["question"].encode()).hexdigest()[:12]
    assert first == {"id": f"my/{digest}"} | rows[0] | {"reference": None}
    assert second == rows[1] | {"answer": "4", "reference": None}
    assert (third["answer"], third["reference"], third["level"]) == ("6", "3 + 3 = 6\n#### 6", 1)
    assert "answer" not in fourth
    assert sh("reasonrl data my.jsonl | reasonrl data - | cmp - <(reasonrl data my.jsonl)").code == 0


@pytest.mark.parametrize("way", ["- < my.jsonl", "/dev/stdin < my.jsonl", "<(cat my.jsonl)"])
def test_ids_of_a_pipe_do_not_depend_on_its_name(sh, tmp_path, way):
    (tmp_path / "my.jsonl").write_bytes(lines(QUESTION))
    assert sh(f"reasonrl data {way}").records[0]["id"].startswith("stdin/")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (QUESTION, "duplicate id 'my/"),
        (QUESTION | {"id": 7}, 'field "id" is not a string'),
        ({"question": 7}, 'field "question" is not a string'),
        ({"answer": "7"}, 'no field "question"'),
        (QUESTION | {"answer": None}, 'field "answer" is neither a string nor a number'),
        (QUESTION | {"answer": [1]}, 'field "answer" is neither a string nor a number'),
    ],
)
def test_a_bad_problem_is_located(sh, tmp_path, row, complaint):
    (tmp_path / "my.jsonl").write_bytes(lines(QUESTION, row))
    done = sh("reasonrl data my.jsonl")
    assert (done.code, done.out) == (1, b"")
    assert done.err.startswith(f"reasonrl data: my.jsonl:2: {complaint}") and done.err.count("\n") == 1


def test_no_problems_is_an_error(sh, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    for line in ("data empty.jsonl", "data -", "data - < empty.jsonl", "data /dev/null", "sample"):
        done = sh(f"reasonrl {line}", stdin=b"")
        assert (done.code, done.out) == (1, b"") and "no problems: the input is empty" in done.err


def which(environment, tmp_path, settings: str, stdin) -> tuple[list[str], str]:
    """The ids that `sample` would work on, without a model, and what stood on stderr."""
    code = (
        "from reasonrl.settings import SampleSettings; from reasonrl.tasks import source;"
        f"problems, _ = source.problems(SampleSettings({settings})); print([p['id'] for p in problems])"
    )
    done = subprocess.run(["python3", "-c", code], stdin=stdin, capture_output=True, env=environment, cwd=tmp_path)
    return json.loads(done.stdout.replace(b"'", b'"') or b"[]"), done.stderr.decode()


def test_where_problems_come_from_first_that_applies(environment, tmp_path):
    (tmp_path / "file.jsonl").write_bytes(lines(QUESTION | {"id": "file/0"}))
    (tmp_path / "piped.jsonl").write_bytes(lines(QUESTION | {"id": "piped/0"}, {"id": "piped/1", "question": "?"}))

    def ids(settings, stdin):
        with open(stdin if stdin == "/dev/null" else tmp_path / stdin, "rb") as stream:
            return which(environment, tmp_path, settings, stream)

    mini = "task='mini', split='test', limit=2"
    assert ids(f"problems=('file.jsonl',), {mini}", "piped.jsonl")[0] == ["file/0"]
    assert ids(mini, "piped.jsonl")[0] == ["mini/test/0", "mini/test/1"]
    assert ids("split='test'", "piped.jsonl")[0] == ["piped/0", "piped/1"]
    assert ids("problems=('-',), split='test'", "piped.jsonl")[0] == ["piped/0", "piped/1"]
    taken, stderr = ids("split='test'", "/dev/null")
    assert taken == [f"mini/test/{n}" for n in range(16)]
    assert "no problems given: taking the first 16 of mini (test)" in stderr
    assert len(ids("split='train', limit=3", "/dev/null")[0]) == 3
    assert "given twice" in ids("problems=('file.jsonl', 'file.jsonl'), split='test', limit=2", "/dev/null")[1]


def test_gsm8k_from_files(sh, data):
    for split, count in (("train", 7473), ("test", 1319)):
        problems = sh(f"reasonrl data gsm8k --split {split}", REASONRL_DATA=str(data)).records
        assert [problem["id"] for problem in problems] == [f"gsm8k/{split}/{n}" for n in range(count)]
        assert not any("<<" in problem["reference"] or "," in problem["answer"] for problem in problems)
        assert all(
            problem["reference"].partition("#### ")[2].replace(",", "") == problem["answer"] for problem in problems
        )
    assert (
        sh(f"reasonrl data gsm8k --path {data}/gsm8k --limit 2").out
        == sh("reasonrl data gsm8k --limit 2", REASONRL_DATA=str(data)).out
    )
    assert sh("reasonrl data gsm8k --path .").err == (
        "reasonrl data: .: neither gsm8k/train.jsonl nor train.jsonl is in it\n"
    )


def test_a_published_file_that_is_damaged(sh, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(lines({"question": "?", "answer": "#### 1"}, QUESTION))
    done = sh("reasonrl data gsm8k --path .")
    assert done.code == 1 and done.err.startswith('reasonrl data: train.jsonl:2: field "answer" is no worked solution')


def test_references_of_gsm8k_score_one(sh, data):
    line = (
        "for split in train test; do reasonrl data gsm8k --split $split; done"
        ' | sed \'s/"reference":/"completion":/\' | reasonrl score --reward exact | grep -c \'"reward":1}\''
    )
    assert sh(line, REASONRL_DATA=str(data)).out.strip() == str(7473 + 1319).encode()


def test_verdicts_agree_with_the_publisher(sh, data, tmp_path):
    rows = [json.loads(line) for line in (data / "gsm8k" / "model_solutions.jsonl").open()]
    for row in rows:
        row["answer"] = row["reference"].rpartition("A:")[2]
    (tmp_path / "in.jsonl").write_bytes(lines(*rows))
    scored = sh("reasonrl score --reward exact in.jsonl").records
    assert len(scored) == 2640
    assert [row["correct"] for row in scored] == [row["is_correct"] for row in rows]
    assert [row["reward"] for row in scored] == [int(row["is_correct"]) for row in rows]
