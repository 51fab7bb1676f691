"""`score` and `filter` as laws: what they keep, in which order, and what equals what."""

import json

import pytest
from conftest import lines, sample_record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasonrl import cli
from reasonrl.grading import equations
from reasonrl.grading.verdict import grade

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=8,
)  # fmt: skip
OWNED = {"correct", "correct_strict", "correct_flexible", "extracted", "rewards", "reward"}
completions = st.sampled_from(
    ["#### 1", "A: 2", "1 + 1 = 2\n#### 2", "so 2", "1+1=2 then\n#### 2", " #### 1 ", "", "half\r\n#### 1/2"]
)
unknown = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name not in {"id", "completion", "answer", *OWNED}), json_values, max_size=3
)
samples = st.builds(
    lambda extra, id, completion, answer, reward: (
        extra | {"id": f"q/{id}", "completion": completion, "answer": answer, "reward": reward}
    ),
    unknown, st.integers(0, 2), completions, st.sampled_from(["1", "2", "0.5"]), st.sampled_from([0, 0.5, 1]),
)  # fmt: skip
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def through(tmp_path, words: list[str], records: list[dict]) -> list[dict]:
    """The records that a stage makes of these, by way of files."""
    (tmp_path / "in.jsonl").write_bytes(lines(*records))
    assert cli.run([*words, str(tmp_path / "in.jsonl"), "-q", "-f", "-o", str(tmp_path / "out.jsonl")]) == 0
    return [json.loads(line) for line in (tmp_path / "out.jsonl").open(encoding="utf-8")]


@given(st.lists(samples, max_size=12), st.sampled_from(["strict", "flexible"]))
@many
def test_score_keeps_order_and_every_field_that_it_does_not_own(tmp_path, records, reading):
    scored = through(tmp_path, ["score", "--answer", reading], records)
    strip = lambda record: {name: value for name, value in record.items() if name not in OWNED}
    assert [strip(record) for record in scored] == [strip(record) for record in records]
    for record in scored:
        verdict = grade(record["completion"], record["answer"])
        assert (record["correct_strict"], record["correct_flexible"]) == (verdict.strict, verdict.flexible)
        assert record["correct"] is record[f"correct_{reading}"]
        assert record["extracted"] == getattr(verdict, f"extracted_{reading}")
        assert record["rewards"] == {"exact": record["reward"]} and record["reward"] == int(record["correct"])


@given(
    st.lists(samples, max_size=15),
    st.sampled_from(["text", "equations", "none"]),
    st.integers(0, 3),
    st.none() | st.just(0.5),
)
@many
def test_filter_is_the_obvious_loop(tmp_path, records, dedup, per_question, threshold):
    words = ["filter", "--dedup", dedup]
    words += ["--per-question", str(per_question)] if per_question else []
    words += ["--min-reward", str(threshold)] if threshold is not None else []
    expected, seen = [], []
    for record in records:
        solution = record["completion"].strip() if dedup == "text" else equations.chain(record["completion"])
        alike = dedup != "none" and (record["id"], solution) in seen
        full = per_question and sum(kept["id"] == record["id"] for kept in expected) >= per_question
        if alike or full or (threshold is not None and record["reward"] < threshold):
            continue
        seen.append((record["id"], solution))
        expected.append(record)
    assert through(tmp_path, words, records) == expected


@given(st.lists(samples, max_size=12), st.sampled_from(["text", "equations"]))
@many
def test_filter_twice_is_filter_once(tmp_path, records, dedup):
    once = through(tmp_path, ["filter", "--dedup", dedup], records)
    assert through(tmp_path, ["filter", "--dedup", dedup], once) == once


def test_rounds_are_merged_the_first_of_equals_kept(sh, tmp_path):
    """D_2 = R_2 ∪ D_1, as Expert Iteration has it."""
    (tmp_path / "r2.jsonl").write_bytes(lines(sample_record(0, round=2), sample_record(2, round=2, completion="A: 0")))
    (tmp_path / "d1.jsonl").write_bytes(lines(sample_record(0, round=1), sample_record(4, round=1)))
    kept = sh("reasonrl filter r2.jsonl d1.jsonl").records
    assert [(record["id"], record["round"]) for record in kept] == [("q/0", 2), ("q/0", 2), ("q/1", 1)]
    assert sh("cat d1.jsonl | reasonrl filter r2.jsonl -").records == kept
    assert [r["round"] for r in sh("reasonrl filter r2.jsonl d1.jsonl --per-question 1").records] == [2, 1]
    assert "kept 3 of 4 samples" in sh("reasonrl filter r2.jsonl d1.jsonl").err


def test_dedup_by_equations_sees_through_words(sh):
    texts = ["He has 2 * 3 = 6.\n#### 6", "2*3=6 pens in all\n#### 6", "First 3 * 2 = 6.\n#### 6"]
    stdin = lines(*(sample_record(0, completion=text) for text in texts))
    assert [r["completion"] for r in sh("reasonrl filter --dedup equations", stdin=stdin).records] == [
        texts[0],
        texts[2],
    ]
    assert len(sh("reasonrl filter --dedup text", stdin=stdin).records) == 3


def test_solutions_that_only_look_alike_are_both_kept(sh):
    hidden = ["9 boxes * 4 = 36 pens.\n#### 36", "She pays $40 − $4 = $36.\n#### 36"]  # of both "4=36" can be read
    graded = [("2 * 3 = 6\n#### 7", False), ("2 * 3 = 6\n#### 6", True), ("So 2 * 3 = 6.\n#### 6", True)]
    records = [sample_record(0, completion=text) for text in hidden]
    records += [sample_record(0, completion=text, correct=right) for text, right in graded]
    kept = sh("reasonrl filter --dedup equations", stdin=lines(*records)).records
    assert [record["completion"] for record in kept] == [*hidden, graded[0][0], graded[1][0]]


def test_records_that_a_reward_refuses_are_not_counted(sh, tmp_path):
    records = [sample_record(n, completion="#### 1", answer="1") for n in range(3)]
    records[1]["reference"] = "2 - 1 = 1\n#### 1"
    done = sh("reasonrl score --reward dense --on-error skip -o o.jsonl", stdin=lines(*records))
    assert "1 samples: 100.0% correct" in done.err, done.err


def test_rejects_of_an_earlier_run_stay_where_nothing_is_run(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(sample_record(0)) + b"broken\n")
    score = "reasonrl score in.jsonl -o out.jsonl --rejects bad.jsonl"
    assert sh(score).code == 0
    assert sh(f"{score} --resume").code == 0 and sh(score).code == 2
    assert (tmp_path / "bad.jsonl").read_bytes() == b"broken\n"
    for own in ("out.jsonl", "out.jsonl.partial", "out.jsonl.meta.json"):
        assert (
            "this run reads or writes that file" in sh(f"reasonrl score in.jsonl -f -o out.jsonl --rejects {own}").err
        )


def test_an_integer_that_json_tools_cannot_hold_becomes_a_float_as_in_jq(sh):
    stdin = b'{"completion":"A: 1","answer":"1","n":100000000000000000000}\n'
    assert sh("reasonrl score -q", stdin=stdin).records[0]["n"] == 1e20


@pytest.mark.parametrize("threshold", ["0", "1", "0.5", "-1", "inf"])
def test_the_threshold_is_inclusive(sh, threshold):
    rewards = [-2, -1, 0, 0.49, 0.5, 1, 1.0]
    stdin = lines(*(sample_record(4 * n, reward=reward) for n, reward in enumerate(rewards)))
    kept = [record["reward"] for record in sh(f"reasonrl filter --min-reward {threshold}", stdin=stdin).records]
    assert kept == [reward for reward in rewards if reward >= float(threshold)]


@pytest.mark.parametrize("reward", [None, True, "1", [1]])
def test_a_reward_that_is_no_number_is_an_error(sh, reward):
    done = sh("reasonrl filter --min-reward 1", stdin=lines(sample_record(0, reward=reward)))
    assert done.code == 1 and '<stdin>:1: no number in field "reward" (score the samples first)' in done.err
