"""`eval` and `report`: from scored samples to a metrics record, a table and plots."""

import itertools
import json
import random

import pytest
from conftest import lines


def scored(id, k, extracted, right="1", temperature=1.0, **more):
    """A scored sample; right where it extracted `right`."""
    return {
        "id": id, "k": k, "completion": f"{k % 3} + 0 = {k % 3}\n#### {extracted}", "extracted": extracted,
        "correct": extracted == right, "temperature": temperature, "finish": "eos",
    } | more  # fmt: skip


def answers(id, given: str, **more) -> list[dict]:
    """`answers("a", "12-1")`: four samples, the third without an answer."""
    return [scored(id, k, None if answer == "-" else answer, **more) for k, answer in enumerate(given)]


WORKED = [*answers("a", "1122"), *answers("b", "2-11", finish="length"), *answers("c", "----")]
GREEDY = [scored("a", 0, "1", temperature=0), scored("b", 0, "2", temperature=0.0)]


def metric(record, name, k):
    (metric,) = [m for m in record["metrics"] if (m["name"], m["k"]) == (name, k)]
    return metric


def test_a_worked_example(sh, tmp_path):
    (tmp_path / "greedy.jsonl").write_bytes(lines(*GREEDY))
    (tmp_path / "sampled.jsonl").write_bytes(lines(*WORKED))
    line = "reasonrl eval greedy.jsonl sampled.jsonl --set algorithm=ei --set round=2 --set lr=1e-3 --set x=nan"
    done = sh(f"{line} --set v=1.0.0")
    assert done.code == 0 and "maj@4" in done.err and "algorithm=ei round=2" in done.err
    (record,) = done.records
    assert list(record)[:5] == ["algorithm", "round", "lr", "x", "v"]
    assert [record[name] for name in list(record)[:5]] == ["ei", 2, 0.001, "nan", "1.0.0"]
    assert (record["questions"], record["samples"], record["greedy"]) == (3, 12, 2)
    assert record["unparseable"] == pytest.approx(5 / 14) and record["truncated"] == pytest.approx(4 / 14)
    assert record["unique_solutions"] == 3 and record["unique_correct"] == pytest.approx((2 + 2 + 0) / 3)
    assert (metric(record, "maj", 1)["value"], metric(record, "maj", 1)["n"]) == (0.5, 2)
    assert metric(record, "maj", 2)["value"] == pytest.approx(1 / 3)
    assert metric(record, "maj", 4)["value"] == pytest.approx(2 / 3)  # a: the tie goes to the first
    assert metric(record, "pass", 1)["value"] == pytest.approx(1 / 3)
    assert metric(record, "pass", 2)["value"] == pytest.approx((5 / 6 + 5 / 6 + 0) / 3)
    assert metric(record, "pass", 4)["value"] == pytest.approx(2 / 3)
    for m in record["metrics"]:
        assert m["low"] <= m["value"] <= m["high"] and list(m) == ["name", "k", "value", "low", "high", "n"]


def test_rerank_needs_every_score(sh):
    orm = [0.1, 0.9, 0.5, 0.2]
    rows = [record | {"rewards": {"orm": score}} for record, score in zip(answers("a", "2122"), orm, strict=True)]
    assert metric(sh("reasonrl eval -q", stdin=lines(*rows)).records[0], "rerank", 4)["value"] == 1
    rows[3]["rewards"]["orm"] = None
    assert "rerank" not in sh("reasonrl eval -q", stdin=lines(*rows)).out.decode()


def test_grouping_does_not_rely_on_order(sh):
    """Questions interleaved in any way, the order within each kept, give one record."""
    groups = [answers(f"q{n}", "".join(random.Random(n).choices("12-", k=8))) for n in range(6)]
    expected = sh("reasonrl eval -q", stdin=lines(*itertools.chain(*groups))).records[0]
    for seed in range(3):
        turns = [n for n, group in enumerate(groups) for _ in group]
        random.Random(seed).shuffle(turns)
        waiting = [iter(group) for group in groups]
        shuffled = sh("reasonrl eval -q", stdin=lines(*(next(waiting[n]) for n in turns))).records[0]
        for one, other in zip(shuffled.pop("metrics"), expected["metrics"], strict=True):
            assert (one["name"], one["k"], one["n"]) == (other["name"], other["k"], other["n"])
            assert one["value"] == pytest.approx(other["value"])
        assert shuffled == {name: value for name, value in expected.items() if name != "metrics"}


def test_the_interval_is_seeded(sh):
    stdin = lines(*itertools.chain(*(answers(f"q{n}", "12"[n % 3 > 0] * 2) for n in range(500))))
    one, same, *others = (sh(f"reasonrl eval -q --seed {seed}", stdin=stdin).out for seed in (0, 0, 1, 2, 3, 4))
    assert one == same and {one} < {one, *others}  # some may agree in both ends


def test_labels_that_look_like_markup_are_shown(sh):
    done = sh("reasonrl eval --set note='[/x]' --set split='[test]'", stdin=lines(*answers("a", "12")))
    assert done.code == 0 and "note=[/x] split=[test]" in done.err


def test_unequal_numbers_of_samples_are_reported(sh):
    done = sh("reasonrl eval", stdin=lines(*answers("a", "111"), *answers("b", "12")))
    assert "warning: questions have 2 to 3 samples each; metrics go up to k = 2" in done.err
    assert max(m["k"] for m in done.records[0]["metrics"]) == 2


def test_a_sample_that_came_in_before_is_refused(sh, tmp_path):
    made = {"seed": 0, "model": "m", "top_p": 1.0, "prompt_hash": "p"}
    (tmp_path / "greedy.jsonl").write_bytes(lines(*(record | made for record in GREEDY)))
    for n, name in enumerate("ab"):
        (tmp_path / f"shard{n}.jsonl").write_bytes(lines(*answers(name, "12", **made)))
    assert sh("reasonrl eval greedy.jsonl shard0.jsonl shard1.jsonl").records[0]["samples"] == 4
    for files, place in {
        "shard0.jsonl shard1.jsonl shard0.jsonl": "shard0.jsonl:1",
        "greedy.jsonl greedy.jsonl": "greedy.jsonl:1",
    }.items():
        done = sh(f"reasonrl eval {files}")
        assert (done.code, done.out, done.err.count("\n")) == (1, b"", 1)
        assert done.err.startswith(f"reasonrl eval: {place}: sample k = 0 of 'a' came in before")
    others = [made | change for change in ({"seed": 1}, {"model": "n"}, {"top_p": 0.9}, {"prompt_hash": "q"}, {})]
    more = [record for other in others for record in answers("a", "12", **other)]
    more += [*answers("a", "12", condition="[BAD]", **made), *answers("a", "12", temperature=0.5, **made)]
    assert sh("reasonrl eval -q", stdin=lines(*more, *2 * answers("a", "12"))).records[0]["samples"] == 18


def test_samples_of_several_models_are_reported(sh):
    by_model = {name: [scored("a", k, "1", model=name, seed=0) for k in range(2)] for name in "mn"}
    greedy = scored("a", 0, "1", temperature=0, seed=0, model="n")
    assert "models" not in sh("reasonrl eval", stdin=lines(*by_model["m"], greedy)).err
    hot = scored("a", 9, "1", model="m", seed=0) | {"temperature": 1.5}
    done = sh("reasonrl eval", stdin=lines(*by_model["m"], *by_model["n"], hot, greedy))
    assert "warning: sampled records differ in model and count as one: m, n\n" in done.err and done.code == 0
    assert "warning: sampled records differ in temperature and count as one: 1.0, 1.5\n" in done.err
    # of greedy answers one alone counts: which one must not hang on the order
    for change in ({"model": "o"}, {"condition": "[BAD]"}, {"prompt_hash": "1"}):
        done = sh("reasonrl eval", stdin=lines(*by_model["m"], greedy, greedy | change))
        assert done.code == 1 and "<stdin>:4: a second greedy answer to 'a'" in done.err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"temperature": None}, 'no number in field "temperature"'),
        ({"correct": 1}, 'no verdict in field "correct"'),
        ({"extracted": 1}, 'field "extracted" is neither a string nor null'),
        ({"rewards": {"orm": "0.5"}}, 'field "rewards" is not an object of numbers'),
        ({"id": 1}, 'field "id" is not a string'),
    ],
)
def test_records_that_cannot_be_evaluated(sh, change, complaint):
    done = sh("reasonrl eval", stdin=lines(*answers("a", "12"), scored("a", 2, "1") | change))
    assert (done.code, done.out) == (1, b"") and done.err.startswith(f"reasonrl eval: <stdin>:3: {complaint}")


def test_a_verdict_without_the_answer_that_was_read_is_refused(sh):
    record = scored("a", 0, "1")
    del record["extracted"]  # a vote could not count it
    assert 'field "extracted" is neither' in sh("reasonrl eval", stdin=lines(record)).err


def metrics_record(value, half=0.02, **labels):
    """What `eval` writes, with one value for all metrics."""
    about = {"value": value, "low": value - half, "high": value + half, "n": 100}
    names = [("maj", 1), ("maj", 4), ("pass", 1), ("pass", 2), ("pass", 4)]
    return labels | {
        "metrics": [{"name": name, "k": k} | about for name, k in names],
        "questions": 100, "samples": 400, "greedy": 100,
        "unparseable": 0.25, "truncated": 0.0, "unique_solutions": 2.0, "unique_correct": None,
    }  # fmt: skip


def test_a_report_of_rounds(sh, tmp_path):
    for n in range(3):
        (tmp_path / f"round{n}.json").write_bytes(lines(metrics_record(0.4 + n / 10, algorithm="ei", round=n)))
    done = sh("reasonrl report round*.json -o report --title 'Expert Iteration'")
    assert done.out == b"report/report.md\nreport/by-round.png\nreport/pass-at-k.png\n"
    assert (tmp_path / "report" / "report.md").read_text().splitlines()[:6] == [
        "# Expert Iteration",
        "",
        "| algorithm | round | maj@1 | maj@4 | pass@1 | pass@4 | unparseable | truncated | unique solutions |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| ei | 0 | 0.400 [0.380, 0.420] | 0.400 [0.380, 0.420] | 0.400 [0.380, 0.420] | 0.400 [0.380, 0.420]"
        " | 0.250 | 0.000 | 2.000 |",
        "| ei | 1 | 0.500 [0.480, 0.520] | 0.500 [0.480, 0.520] | 0.500 [0.480, 0.520] | 0.500 [0.480, 0.520]"
        " | 0.250 | 0.000 | 2.000 |",
    ]
    for name in ("by-round.png", "pass-at-k.png"):
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "report" / name).stat().st_size > 5000
    assert sh("reasonrl report round*.json -o report").code == 2
    assert sh("reasonrl report round*.json -o report --resume").code == 0
    assert sh("cat round*.json | reasonrl report -o report -f --x algorithm").code == 0


def test_seeds_are_merged_and_rounds_are_not(sh, tmp_path):
    values = {0: (0.40, 0.44, 0.48), 1: (0.50, 0.54, 0.58)}
    records = [metrics_record(v, round=n, seed=seed) for n, by_seed in values.items() for seed, v in enumerate(by_seed)]
    random.Random(0).shuffle(records)
    assert sh("reasonrl report -o report", stdin=lines(*records)).code == 0
    text = (tmp_path / "report" / "report.md").read_text()
    half = 4.303 * 0.04 / 3**0.5
    for n, by_seed in values.items():
        assert f"| {n} | 3 | {by_seed[1]:.3f} [{by_seed[1] - half:.3f}, {by_seed[1] + half:.3f}] |" in text
    assert "| round | seeds | maj@1 |" in text and "t-interval" in text
    twice = sh("reasonrl report -o other", stdin=lines(*records, records[0]))
    assert twice.code == 1 and "and one seed; tell them apart with `eval --set`" in twice.err
    assert not (tmp_path / "other").exists()


def test_seeds_that_agree_keep_the_interval_over_questions(sh, tmp_path):
    records = [metrics_record(0.5, half=0.1 + seed / 100, round=0, seed=seed) for seed in range(3)]
    records += [metrics_record(value, round=1, seed=seed) for seed, value in enumerate((0.6, 0.7))]
    assert sh("reasonrl report -q -o r --metric maj@1", stdin=lines(*records)).code == 0
    text = (tmp_path / "r" / "report.md").read_text()
    assert "| 0 | 3 | 0.500 [0.400, 0.600] |" in text and "| 1 | 2 | 0.650 [0.015, 1.000] |" in text
    assert "where all of them agree, with the first one's interval over questions." in text
    assert "after a cell" not in text


def test_a_cell_says_where_not_every_seed_has_the_number(sh, tmp_path):
    records = [metrics_record(value, round=0, seed=seed) for seed, value in enumerate((0.4, 0.5, 0.6))]
    records[2]["metrics"] = [one for one in records[2]["metrics"] if one["name"] == "maj"]
    assert sh("reasonrl report -q -o r --metric maj@1 --metric pass@4", stdin=lines(*records)).code == 0
    text = (tmp_path / "r" / "report.md").read_text()
    assert "| 0 | 3 | 0.500 [0.252, 0.748] | 0.450 [0.000, 1.000] (2) |" in text
    assert "(N) after a cell: N of the row's seeds have that number." in text


def test_rows_follow_x_and_no_interval_leaves_what_a_fraction_can_be(sh, tmp_path):
    values = {"b": (0.97, 1.0), "a": (0.0, 0.02)}
    records = [
        metrics_record(value, algorithm=name, round=n, seed=seed)
        for n in (10, 2, 0) for name, by_seed in values.items() for seed, value in enumerate(by_seed)
    ]  # fmt: skip
    assert sh("reasonrl report -q -o report", stdin=lines(*records)).code == 0
    rows = [
        line.split(" | ") for line in (tmp_path / "report" / "report.md").read_text().splitlines() if " | 2 | " in line
    ]
    assert [row[0].strip("| ") + row[1] for row in rows] == ["b0", "b2", "b10", "a0", "a2", "a10"]
    assert {row[3].strip("| ") for row in rows} == {"0.985 [0.794, 1.000]", "0.010 [0.000, 0.137]"}


def test_a_table_of_named_rows_and_chosen_metrics(sh, tmp_path):
    names = ("SFT2", "PPO sparse", "EI")
    records = [metrics_record(0.3 + n / 10, cell=name, seed=seed) for seed in (0, 1) for n, name in enumerate(names)]
    done = sh("reasonrl report -o t --metric pass@4 --metric unique_solutions --metric maj@1", stdin=lines(*records))
    assert done.out == b"t/report.md\nt/rows.png\n"  # no label `round`: the rows one below the other, no pass@k curves
    table = (tmp_path / "t" / "report.md").read_text().splitlines()[2:]
    assert table[0] == "| cell | seeds | pass@4 | unique solutions | maj@1 |"
    assert [row.split(" | ")[0] for row in table[2:5]] == ["| SFT2", "| PPO sparse", "| EI"]
    assert table[2] == "| SFT2 | 2 | 0.300 [0.280, 0.320] | 2.000 | 0.300 [0.280, 0.320] |"
    assert (tmp_path / "t" / "rows.png").stat().st_size > 5000

    unknown = sh("reasonrl report -o u --metric rerank@4", stdin=lines(*records))
    assert unknown.code == 2 and "--metric rerank@4: no record has it; there are maj@1, maj@4" in unknown.err
    assert not (tmp_path / "u").exists()


def test_differences_are_paired_by_seed(sh, tmp_path):
    values = {"EI": (0.50, 0.60, 0.70), "PPO": (0.49, 0.57, 0.68), "SFT": (0.3,)}
    records = [
        metrics_record(v, cell=name, seed=seed) for name, by_seed in values.items() for seed, v in enumerate(by_seed)
    ]
    random.Random(0).shuffle(records)
    done = sh("reasonrl report -q -o d --metric maj@1 --against cell=PPO --against cell=EI", stdin=lines(*records))
    assert done.code == 0, done.err
    _, to_ppo, to_ei = (tmp_path / "d" / "report.md").read_text().split("## Differences to ")
    # EI - PPO is 1, 3 and 2 points: 2 on average, half an interval 4.303 * 1 / sqrt(3), though both spread by 20
    assert (
        to_ppo.startswith("cell=PPO\n") and "| EI | 3 | +0.020 [-0.005, +0.045] |" in to_ppo and "| PPO |" not in to_ppo
    )
    assert "| PPO | 3 | -0.020 [-0.045, +0.005] |" in to_ei
    assert "| SFT | 1 | -0.190 |" in to_ppo  # of one seed: no interval
    report = lambda flags: sh(f"reasonrl report -q -o e {flags}", stdin=lines(*records))
    assert "--against cell=RCRL: no rows have that" in report("--against cell=RCRL").err
    assert "--against RCRL: want LABEL=VALUE" in report("--against RCRL").err
    rounds = lines(*(metrics_record(0.5 + n / 10, algorithm="ei", round=n) for n in range(3)))
    done = sh("reasonrl report -q -o e --against algorithm=ei", stdin=rounds)
    assert done.code == 2 and "--against algorithm=ei: 3 rows have that; name what one row alone has" in done.err
    assert not (tmp_path / "e").exists()
    assert sh("reasonrl report -q -o e --metric maj@1 --against algorithm=ei,round=0", stdin=rounds).code == 0
    assert "| ei | 2 | +0.200 |" in (tmp_path / "e" / "report.md").read_text()


def test_a_chosen_count_is_plotted_along_x(sh, tmp_path):
    records = [metrics_record(0.5, start=start, round=n) for start in ("SFT", "pretrained") for n in range(3)]
    done = sh("reasonrl report -o d --metric unique_solutions", stdin=lines(*records))
    assert done.out == b"d/report.md\nd/by-round.png\n"
    assert "| start | round | unique solutions |" in (tmp_path / "d" / "report.md").read_text()


def test_labels_cannot_break_the_table(sh, tmp_path):
    assert sh("reasonrl report -o report", stdin=lines(metrics_record(0.5, note="a|b\nc", round=0))).code == 0
    assert "| a\\|b c | 0 |" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"metrics": {}},
        {"metrics": [{}]},
        {"metrics": [{"name": "maj", "k": 1, "value": None}]},
        {"metrics": [], "l": []},
    ],
)
def test_what_is_no_metrics_record_is_located(sh, record):
    done = sh("reasonrl report", stdin=lines(metrics_record(0.5, round=0), record))
    assert done.code == 1 and done.err.startswith("reasonrl report: <stdin>:2: ") and done.err.count("\n") == 1


def test_from_samples_to_report_in_one_pipe(sh, tmp_path):
    samples = [{"id": f"q{n % 5}", "completion": f"#### {n % 3}", "answer": "1", "temperature": 1.0} for n in range(20)]
    done = sh("reasonrl score | reasonrl eval --set round=0 | reasonrl report -q -o r", stdin=lines(*samples))
    assert done.code == 0 and (tmp_path / "r" / "report.md").exists()
    assert json.loads(sh("cat r/report.md | wc -l").out) > 5
