"""Stages between pipes, as a shell sees them: bytes on stdout, one line on stderr, and the exit code."""

import json
import os
import select
import signal

import pytest
from conftest import lines, sample_record

SCORED = (
    b'{"id":"a/1","answer":"18","completion":"3 * 6 = 18\\n#### 18","mine":{"x":[1,null]},'
    b'"rewards":{"orm":0.5,"exact":1},"correct":true,"correct_strict":true,"correct_flexible":true,"extracted":"18","reward":1}\n'
    b'{"id":"a/2","answer":"18","completion":"so it is 18","correct":false,"correct_strict":false,'
    b'"correct_flexible":true,"extracted":null,"rewards":{"exact":0},"reward":0}\n'
)
SAMPLES = (
    b'{"id":"a/1","answer":"18","completion":"3 * 6 = 18\\n#### 18","mine":{"x":[1,null]},"rewards":{"orm":0.5}}\n'
    b'{"id":"a/2","answer":"18","completion":"so it is 18"}\n'
)


@pytest.fixture
def many(tmp_path):
    """A file of 4,000 samples: more than any pipe holds."""
    (tmp_path / "many.jsonl").write_bytes(lines(*map(sample_record, range(4000))))


def test_score_adds_its_fields_and_keeps_the_others(sh):
    done = sh("reasonrl score", stdin=SAMPLES)
    assert (done.code, done.out) == (0, SCORED)
    assert done.err == (
        "reasonrl score: 2 samples: 50.0% correct (strict), 100.0% (flexible), 50.0% without a marked answer\n"
    )


def test_score_twice_is_score_once(sh):
    assert sh("reasonrl score -q | reasonrl score -q", stdin=SAMPLES).out == SCORED


def test_filter_passes_lines_through_byte_for_byte(sh):
    odd = b'{ "reward" : 1.0, "id":"a",\t"completion": "\\u0041 = 1e2", "mine": 1e400000000000000000000 }\n'
    odd = odd.replace(b"1e400000000000000000000", b"10000000000000000000000001")
    done = sh("reasonrl filter --min-reward 1 -q", stdin=odd + SCORED)
    assert (done.code, done.out) == (0, odd + SCORED.splitlines(True)[0])


def test_standard_tools_stand_between_stages(sh, many):
    line = "reasonrl score -q many.jsonl | sort -R | reasonrl filter --min-reward 1 --dedup none -q | sort | sha256sum"
    assert sh(line).out == sh("reasonrl score -q many.jsonl | grep '\"reward\":1' | sort | sha256sum").out


def test_the_readme_pipeline_without_its_model(sh):
    """data | (a sampler that is always right) | score | jq | wc."""
    sampler = "jq -c '. + {completion: .reference}'"
    line = f"reasonrl data mini --limit 200 | {sampler} | reasonrl score --reward exact | jq -c 'select(.reward == 1)'"
    assert sh(f"{line} | wc -l").out.strip() == b"200"


@pytest.mark.parametrize("stage", ["data mini", "score many.jsonl", "filter many.jsonl", "score", "filter"])
def test_head_ends_a_stage_quietly(sh, many, stage):
    done = sh(f"reasonrl {stage} {'' if ' ' in stage else '< many.jsonl'} | head -1")
    assert (done.code, done.out.count(b"\n"), done.err) == (0, 1, "")


@pytest.mark.parametrize("line", ["eval scored.jsonl", "score one.jsonl", "report m.jsonl", "score --help"])
def test_a_reader_that_is_gone_before_the_first_byte(sh, tmp_path, line):
    (tmp_path / "scored.jsonl").write_bytes(lines(sample_record(0, correct=True, extracted="0")))
    (tmp_path / "one.jsonl").write_bytes(lines(sample_record(0)))
    (tmp_path / "m.jsonl").write_bytes(lines({"round": 0, "metrics": []}))
    done = sh(f"(reasonrl {line} -q) 2>err | true; echo ${{PIPESTATUS[0]}}; cat err".replace("--help -q", "--help"))
    assert done.out == b"0\n"


@pytest.mark.parametrize("stage", ["data mini", "score many.jsonl", "filter many.jsonl", "data mini --limit 1"])
def test_a_full_disk_is_one_line_and_exit_code_1(sh, many, stage):
    name = stage.split()[0]
    assert sh(f"reasonrl {stage} > /dev/full") == (1, b"", f"reasonrl {name}: stdout: no space left on device\n")
    assert sh(f"reasonrl {stage} -o /dev/full") == (1, b"", f"reasonrl {name}: /dev/full: no space left on device\n")


def test_a_file_that_may_not_grow_is_named_and_keeps_its_partial(sh, tmp_path, many):
    done = sh("ulimit -f 100; reasonrl score many.jsonl -q -o out.jsonl")
    assert (done.code, done.err) == (1, "reasonrl score: out.jsonl: file too large\n")
    assert not (tmp_path / "out.jsonl").exists()
    assert sh("reasonrl score many.jsonl -o out.jsonl --resume").code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == sh("reasonrl score many.jsonl").out


def test_a_stderr_that_nobody_reads_changes_nothing(sh, many):
    expected = sh("reasonrl score many.jsonl -q").out
    for stderr in ("2>/dev/full", "2>&-", "2> >(true)"):
        assert sh(f"reasonrl score many.jsonl {stderr}")[:2] == (0, expected)


def test_closed_streams(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(SAMPLES)
    assert sh("reasonrl score -q in.jsonl <&-")[:2] == (0, SCORED)
    assert sh("reasonrl score -q in.jsonl -o out.jsonl <&- >&- 2>&-").code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == SCORED
    assert sh("reasonrl score in.jsonl >&-").code == 2
    assert sh("reasonrl score <&-") == (2, b"", "reasonrl score: no input: name a file, or pipe records in\n")
    assert sh("reasonrl score - <&-").code == 2


def test_odd_files(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(SAMPLES)
    assert sh("reasonrl score -q < in.jsonl").out == SCORED
    assert sh("reasonrl score -q - < in.jsonl").out == SCORED
    assert sh("reasonrl score -q /dev/stdin < in.jsonl").out == SCORED
    assert sh("reasonrl score -q <(cat in.jsonl)").out == SCORED
    assert sh("mkfifo pipe; cat in.jsonl > pipe & reasonrl score -q pipe").out == SCORED
    assert sh("mkfifo out; cat out & reasonrl score -q in.jsonl -o out; wait").out == SCORED
    assert sh("reasonrl score -q in.jsonl -o - ").out == SCORED
    assert sh("reasonrl score -q in.jsonl -o /dev/stdout > out2.jsonl; cat out2.jsonl").out == SCORED
    assert sh("reasonrl score -q <(head -1 in.jsonl) - < <(tail -1 in.jsonl)").out == SCORED
    name = r"$'\xff\n.jsonl'"
    assert sh(f"cp in.jsonl {name} && reasonrl score -q {name} -o out3.jsonl && cat out3.jsonl").out == SCORED
    assert os.path.islink("/dev/stdout")


def test_endings_of_lines_and_of_files(sh):
    first, second = SAMPLES.splitlines(True)
    assert sh("reasonrl score -q", stdin=SAMPLES[:-1]).out == SCORED  # whole, but for its newline
    assert sh("reasonrl score -q", stdin=SAMPLES.replace(b"\n", b"\r\n")).out == SCORED
    assert sh("reasonrl score -q", stdin=b"\xef\xbb\xbf" + first + b"\n \n" + second).out == SCORED
    torn = sh("reasonrl score -q", stdin=SAMPLES[:-9])
    assert torn.code == 1 and torn.out == SCORED.splitlines(True)[0]
    assert torn.err.startswith("reasonrl score: <stdin>:2: not JSON (") and torn.err.count("\n") == 1


def test_empty_input_gives_empty_output(sh):
    assert sh("reasonrl score", stdin=b"") == (0, b"", "reasonrl score: warning: no samples came in\n")
    assert sh("reasonrl filter", stdin=b"")[:2] == (0, b"")
    assert sh("reasonrl eval", stdin=b"") == (1, b"", "reasonrl eval: no scored samples came in\n")
    assert sh("reasonrl report", stdin=b"") == (1, b"", "reasonrl report: no metrics records came in\n")


BAD = {
    "truncated": (b'{"id": "a", "completion"', "not JSON ("),
    "number": (b"17", "not a JSON object"),
    "nan": (b'{"reward": NaN}', "not JSON ("),
    "surrogate": (b'{"id": "\\ud800"}', "not JSON ("),
    "latin-1": (b'{"id": "\xe9"}', "not JSON ("),
    "nul": (b"\0\0\0\0", "not JSON ("),
    "too deep": (b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}", "not JSON ("),
    "deep": (
        b'{"completion":"A: 1","answer":"1","a":' + b"[" * 300 + b"]" * 300 + b"}",
        "cannot be written as JSON (",
    ),
    "no completion": (b'{"answer": "1"}', 'no field "completion"\n'),
    "null": (b'{"completion": null, "answer": "1"}', 'field "completion" is not a string\n'),
    "no number": (
        b'{"completion": "A: 1", "answer": "one"}',
        "field \"answer\" is not one number: 'one' (a --task FILE.py may",
    ),
    "no answer": (
        b'{"completion": "A: 1"}',
        'no field "answer", which --reward exact needs; give the problems one, or',
    ),
    "rewards": (
        b'{"completion": "A: 1", "answer": "1", "rewards": [1]}',
        'field "rewards" is not an object of numbers\n',
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_located(sh, kind):
    bad, complaint = BAD[kind]
    head = lines(*map(sample_record, range(16)))
    done = sh("reasonrl score", stdin=head + bad + b"\n" + SAMPLES)
    assert done.code == 1 and done.out.count(b"\n") == 16
    assert done.err.startswith(f"reasonrl score: <stdin>:17: {complaint}") and done.err.count("\n") == 1


def test_bad_lines_skipped_and_set_aside_byte_for_byte(sh, tmp_path):
    bad = [line for line, _ in BAD.values()]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join([*bad[:6], SAMPLES[:-1], *bad[6:]]) + b"\n")
    for flags in ("--on-error skip", "--rejects bad.jsonl"):
        done = sh(f"reasonrl score in.jsonl {flags}")
        assert (done.code, done.out) == (0, SCORED)
        assert done.err.splitlines()[0].startswith("reasonrl score: warning: skipping in.jsonl:1: not JSON")
        assert done.err.splitlines()[1] == f"reasonrl score: warning: skipped {len(bad)} bad lines"
    assert (tmp_path / "bad.jsonl").read_bytes() == b"\n".join(bad) + b"\n"
    assert sh("reasonrl score in.jsonl --rejects ./in.jsonl").code == 2
    assert sh("reasonrl score in.jsonl --rejects -").code == 2


@pytest.mark.parametrize("stage", ["filter --min-reward 1", "filter", "eval", "report -o report"])
def test_other_stages_locate_as_well(sh, stage, tmp_path):
    name = stage.split()[0]
    done = sh(f"reasonrl {stage} -q", stdin=b'\n{"metrics": 1}\n')
    assert done.code == 1 and done.out == b""
    assert done.err.startswith(f"reasonrl {name}: <stdin>:2: ") and done.err.count("\n") == 1


def test_a_huge_line_does_not_take_quadratic_time(sh):
    """80 MB through a pipe that gives 64 KB at a time: a second, or half a minute if each piece is joined at once."""
    line = r"""(printf '{"answer":"7","completion":"'; head -c 80000000 /dev/zero | tr '\0' x; printf '\\n#### 7"}')"""
    assert sh(f"{line} | reasonrl score -q | tail -c 12", timeout=15).out == b'"reward":1}\n'


@pytest.mark.parametrize("words", [["score"], ["filter"], ["score", "-"]])
def test_a_record_comes_back_before_the_input_ends(start, words):
    live = start(*words)
    for number in range(3):
        live.stdin.write(lines(sample_record(4 * number)))
        live.stdin.flush()
        assert select.select([live.stdout], [], [], 20)[0], "the record is held back"
        assert json.loads(live.stdout.readline())["id"] == f"q/{number}"
    live.stdin.close()
    assert live.wait(20) == 0 and live.stdout.read() == b""


def test_interrupted_is_130_and_one_line(start):
    live = start("score")
    live.stdin.write(SAMPLES)
    live.stdin.flush()
    assert live.stdout.readline() + live.stdout.readline() == SCORED
    live.send_signal(signal.SIGINT)
    assert (live.wait(20), live.stderr.read()) == (130, b"reasonrl score: interrupted\n")
