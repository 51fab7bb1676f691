"""What `-o` promises: whole files or none, sidecars, and an interrupted run that ends like any other."""

import gzip
import hashlib
import json
import signal
import subprocess
import time

import pytest
import zstandard
from conftest import lines, sample_record


@pytest.fixture
def many(tmp_path):
    """60,000 samples, 14 MB: long enough to be interrupted in the middle."""
    path = tmp_path / "many.jsonl"
    path.write_bytes(lines(*(sample_record(number, pad="x" * 60) for number in range(60_000))))
    return path


def sidecar(path) -> dict:
    return json.loads((path.parent / f"{path.name}.meta.json").read_bytes())


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_sidecar_says_what_was_done(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(*map(sample_record, range(5))))
    sh("git init -q . && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m one && git add in.jsonl")
    assert sh("reasonrl score in.jsonl --answer flexible --on-error skip -o out.jsonl").code == 0
    about = sidecar(tmp_path / "out.jsonl")
    assert (about["stage"], about["finished"]) == ("score", True)
    assert about["arguments"]["answer"] == "flexible"
    assert about["arguments"]["samples"] == ["in.jsonl"]
    assert about["argv"][:2] == ["score", "in.jsonl"]
    assert about["counts"] == {
        "records": 5, "correct_strict": 3, "correct_flexible": 3, "unparseable": 0, "skipped": 0,
    }  # fmt: skip
    sha256 = sh("sha256sum in.jsonl").out.split()[0].decode()
    assert about["inputs"] == [{"path": "in.jsonl", "sha256": sha256, "lines": 5}]
    assert about["git"] == {"commit": sh("git rev-parse HEAD").out.strip().decode(), "dirty": True}
    assert 0 < about["seconds"] < 60 and about["version"] and about["python"]
    assert names(tmp_path) == [".git", "in.jsonl", "out.jsonl", "out.jsonl.meta.json"]


def test_data_notes_the_hash_of_the_file_it_read(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines({"question": "1 + 1?", "answer": "2"}))
    assert sh("reasonrl data in.jsonl -o out.jsonl").code == 0
    digest = hashlib.sha256((tmp_path / "in.jsonl").read_bytes()).hexdigest()
    assert sidecar(tmp_path / "out.jsonl")["inputs"] == [{"path": "in.jsonl", "sha256": digest, "lines": 1}]


def test_compressed_files_are_read_and_written(sh, tmp_path):
    plain = lines(*map(sample_record, range(300)))
    (tmp_path / "in.jsonl").write_bytes(plain)
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(plain[:5000]) + gzip.compress(plain[5000:]))
    packed = zstandard.ZstdCompressor()
    (tmp_path / "in.jsonl.zst").write_bytes(packed.compress(plain[:5000]) + packed.compress(plain[5000:]))
    expected = sh("reasonrl score -q in.jsonl").out
    assert sh(
        "reasonrl score -q in.jsonl.gz -o out.jsonl.zst && reasonrl filter -q --dedup none out.jsonl.zst"
    ).out == (expected)
    assert sh("reasonrl score -q in.jsonl.zst -o out.jsonl.gz && gzip -dc out.jsonl.gz").out == expected
    first = (tmp_path / "out.jsonl.gz").read_bytes()
    assert sh("sleep 1.1; reasonrl score -q in.jsonl -o out.jsonl.gz -f").code == 0
    assert (tmp_path / "out.jsonl.gz").read_bytes() == first, "the same records give the same bytes"
    assert not [name for name in names(tmp_path) if "partial" in name]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_file_that_is_damaged_is_an_error(sh, tmp_path, suffix):
    plain = lines(*(sample_record(number, noise=hashlib.sha256(b"%d" % number).hexdigest()) for number in range(9000)))
    packed = gzip.compress(plain) if suffix == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress(plain)
    middle = len(packed) // 2
    for damaged in (packed[:middle], packed[:-3], packed[:middle] + b"????" + packed[middle + 4 :], plain, b""):
        (tmp_path / f"in.jsonl.{suffix}").write_bytes(damaged)
        done = sh(f"reasonrl score in.jsonl.{suffix} -o out.jsonl -f")
        assert done.code == 1 and done.err.count("\n") == 1
        assert f"in.jsonl.{suffix}" in done.err and ("broken" in done.err or "not JSON" in done.err)
        assert not (tmp_path / "out.jsonl").exists()


def test_an_existing_output_is_kept_without_force(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(sample_record(0)))
    (tmp_path / "out.jsonl").write_text("old\n")
    refused = sh("reasonrl score in.jsonl -o out.jsonl")
    assert (refused.code, (tmp_path / "out.jsonl").read_text()) == (2, "old\n")
    assert refused.err == "reasonrl score: out.jsonl exists; --resume keeps it, --force overwrites it\n"
    assert sh("reasonrl score in.jsonl -f -o out.jsonl").code == 0
    whole = (tmp_path / "out.jsonl").read_bytes()
    # A forced run that fails leaves the old file, its sidecar and nothing else.
    before = sidecar(tmp_path / "out.jsonl")
    assert sh("reasonrl score missing.jsonl -f -o out.jsonl").code == 2
    assert ((tmp_path / "out.jsonl").read_bytes(), sidecar(tmp_path / "out.jsonl")) == (whole, before)
    # In place: the input is read to its end before it is replaced.
    assert sh("reasonrl score out.jsonl -f -o out.jsonl").code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def test_work_in_progress_is_kept_without_force(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(sample_record(0), sample_record(1)))
    (tmp_path / "out.jsonl.partial").write_bytes(sh("reasonrl score -q in.jsonl").out[:250])
    assert sh("reasonrl score in.jsonl -o out.jsonl").err == (
        "reasonrl score: out.jsonl.partial exists; --resume continues from it, --force starts again\n"
    )
    assert "(out.jsonl.partial is there: its run has not finished)" in sh("reasonrl score out.jsonl").err


def test_outputs_that_cannot_be(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(sample_record(0)))
    for output in (".", "no/such/out.jsonl", "''", "new/"):
        done = sh(f"reasonrl score in.jsonl -o {output}")
        assert done.code == 2 and done.err.count("\n") == 1
    assert names(tmp_path) == ["in.jsonl"]


def test_a_run_that_fails_before_its_first_record_leaves_nothing(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b"{\n")
    assert sh("reasonrl score in.jsonl -o out.jsonl").code == 1
    assert sh("reasonrl eval in.jsonl -o out.json").code == 1
    assert names(tmp_path) == ["in.jsonl"]


def test_resume_on_a_complete_output_ends_at_once(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(sample_record(0)))
    sh("reasonrl score in.jsonl -o out.jsonl")
    before = (tmp_path / "out.jsonl").stat()
    done = sh("reasonrl score in.jsonl -o out.jsonl --resume")
    assert (done.code, done.err) == (0, "reasonrl score: out.jsonl is complete\n")
    assert (tmp_path / "out.jsonl").stat().st_mtime_ns == before.st_mtime_ns
    assert sh("reasonrl score in.jsonl -o out.jsonl --resume -q").err == ""
    other = sh("reasonrl score in.jsonl -o out.jsonl --resume --answer flexible")
    assert other.code == 2 and "answer was 'strict' and is 'flexible'" in other.err


def test_what_an_upstream_that_failed_left_is_not_taken_for_all(sh, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(lines(sample_record(0)) + b"broken\n" + lines(sample_record(1)))
    pipe = "reasonrl score in.jsonl | reasonrl filter --resume -o kept.jsonl"
    assert sh(f"set -o pipefail; {pipe}").code == 1
    assert len((tmp_path / "kept.jsonl").read_bytes().splitlines()) == 1  # filter cannot know that more was to come
    (tmp_path / "in.jsonl").write_bytes(lines(sample_record(0), sample_record(1)))
    again = sh(pipe)
    assert again.code == 2 and "kept.jsonl was made from other lines of stdin" in again.err
    assert sh(pipe.replace("--resume", "--force")).code == 0
    done = sh(pipe)
    assert (done.code, "kept.jsonl is complete" in done.err) == (0, True)


def test_a_pipe_that_breaks_elsewhere_is_a_failure(sh, tmp_path):
    body = "    yield {'question': '1', 'answer': '1'}\n    raise BrokenPipeError('its server went away')\n"
    (tmp_path / "own.py").write_text(f"def problems(split):\n{body}")
    done = sh("reasonrl data own.py -o own.jsonl")
    assert done.code == 1 and "server went away" in done.err
    assert not (tmp_path / "own.jsonl").exists()


STAGES = {
    "score": ["score", "many.jsonl"],
    "filter": ["filter", "many.jsonl", "--per-question", "3"],
    "data": ["data", "many-problems.jsonl"],
    "packed": ["score", "many.jsonl", "-q"],
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed_is_uninterrupted(sh, start, tmp_path, many, stage, how):
    (tmp_path / "many-problems.jsonl").write_bytes(
        lines(*({"question": f"What is {n}?", "answer": n} for n in range(60_000)))
    )
    words = STAGES[stage]
    out = tmp_path / ("out.jsonl.zst" if stage == "packed" else "out.jsonl")
    partial = tmp_path / f"{out.name}.partial"
    live = start(*words, "-o", out.name)
    while not (partial.exists() and partial.stat().st_size) and live.poll() is None:
        time.sleep(0.001)
    live.send_signal(how)
    assert live.wait(20) == (130 if how == signal.SIGINT else -how), "it was over before it could be interrupted"
    assert partial.exists() and not out.exists()
    assert sidecar(out)["finished"] is False
    kept = partial.read_bytes()
    partial.write_bytes(kept[: len(kept) * 2 // 3])  # a line torn by the end of power
    assert sh(f"reasonrl {' '.join(words)} -o {out.name} --resume").code == 0
    expected = sh(f"reasonrl {' '.join(words)}").out
    written = out.read_bytes()
    if stage == "packed":
        written = zstandard.ZstdDecompressor().decompressobj().decompress(written)
    assert written == expected
    assert sidecar(out)["finished"] is True
    assert sidecar(out)["counts"]["records"] == expected.count(b"\n")
    assert not partial.exists()


def test_resume_refuses_other_arguments_and_other_input(sh, tmp_path, many):
    assert sh("ulimit -f 200; reasonrl score many.jsonl -o out.jsonl").code == 1
    partial = (tmp_path / "out.jsonl.partial").read_bytes()
    other = sh("reasonrl score many.jsonl -o out.jsonl --resume --answer flexible")
    assert other.code == 2 and "answer was 'strict' and is 'flexible'" in other.err
    assert "out.jsonl was made by another command" in sh("reasonrl filter many.jsonl -o out.jsonl --resume").err
    original = many.read_bytes()
    whole = partial[: partial.rindex(b"\n") + 1]
    for changed in (original.replace(b"#### 3", b"#### 4"), original[:50_000]):
        many.write_bytes(changed[: changed.rindex(b"\n")])
        refused = sh("reasonrl score many.jsonl -o out.jsonl --resume")
        assert refused.code == 2 and "did the input change? --force starts again" in refused.err
        assert (tmp_path / "out.jsonl.partial").read_bytes() == whole
    many.write_bytes(original)
    assert sh("reasonrl score many.jsonl -o out.jsonl --resume").code == 0
    assert sh("reasonrl score -q many.jsonl | cmp - out.jsonl").code == 0


def test_an_interrupted_forced_run_is_resumed(sh, tmp_path, many):
    (tmp_path / "out.jsonl").write_text("old\n")
    assert sh("ulimit -f 200; reasonrl score many.jsonl -f -o out.jsonl").code == 1
    assert (tmp_path / "out.jsonl").read_text() == "old\n"
    assert sh("reasonrl score many.jsonl --resume -o out.jsonl").code == 0
    assert sh("reasonrl score -q many.jsonl | cmp - out.jsonl").code == 0


def test_two_runs_cannot_write_one_output(sh, start, tmp_path):
    first = start("score", "-o", "out.jsonl")
    while not (tmp_path / "out.jsonl.partial").exists():
        time.sleep(0.01)
    second = sh("reasonrl score -o out.jsonl --resume", stdin=lines(sample_record(0)))
    assert (second.code, second.err) == (1, "reasonrl score: out.jsonl.partial: another run is writing it\n")
    first.stdin.write(lines(sample_record(0)))
    first.stdin.close()
    assert first.wait(20) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == sh("reasonrl score", stdin=lines(sample_record(0))).out


@pytest.mark.slow
def test_memory_of_score_does_not_grow_with_the_file(tmp_path, environment):
    with open(tmp_path / "in.jsonl", "wb") as out:
        for number in range(200_000):
            out.write(lines(sample_record(number, pad="x" * 600, answer=str(number))))
    probe = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode;"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    ended = subprocess.run(
        ["python3", "-S", "-c", probe, "reasonrl", "score", "in.jsonl", "-o", "out.jsonl"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(ended.stdout) / 1024 < 150
    assert (tmp_path / "in.jsonl").stat().st_size > 150e6
