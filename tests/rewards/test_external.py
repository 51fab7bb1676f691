"""Rewards of one's own: what goes in and out, and that every way to fail is reported, with the record."""

import os
import time

import pytest

from reasonrl.errors import UsageError
from reasonrl.rewards.base import RewardFailed
from reasonrl.rewards.external import Function, Program

RECORDS = [{"id": f"x/{z}", "z": z, "completion": "#### " + str(z)} for z in range(6)]
MANY = [{"z": z, "completion": "x" * 5000} for z in range(3000)]  # more than any pipe holds

FUNCTIONS = """
import os, signal, sys, time
import beside
calls = 0
def fine(records):
    global calls
    calls += 1
    print("not a record")
    os.write(1, b"nor this")
    for record in records:
        record["z"] += beside.OFFSET
    return [record["z"] + 100 * calls for record in records]
def lazy(records): return (record["z"] > 2 for record in records)
def array(records):
    import numpy
    return numpy.array([record["z"] for record in records], dtype=numpy.float32)
def breaks(records): return [1 / (record["z"] - 3) for record in records]
def hangs(records): return [time.sleep(60 if record["z"] == 3 else 0) or 1 for record in records]
def crashes(records): return [os.kill(os.getpid(), 11) if record["z"] == 3 else 1 for record in records]
def leaves(records): return [sys.exit(5) if record["z"] == 3 else 1 for record in records]
def counts(records): return [1] * min(5, len(records))
def nan(records): return [float("nan") if record["z"] == 3 else 1 for record in records]
def text(records): return ["1" if record["z"] == 3 else 1 for record in records]
def none(records): return None
def dies_later(records):
    signal.setitimer(signal.ITIMER_REAL, 0.2)  # as a verifier that limits its time may leave behind
    return [1 for record in records]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    directory = tmp_path_factory.mktemp("verifier")
    (directory / "beside.py").write_text("OFFSET = 0.5")
    (directory / "verify.py").write_text(FUNCTIONS)
    return str(directory / "verify.py")


@pytest.fixture
def function(file):
    started = []

    def start(name, timeout=30):
        started.append(Function(file, name, timeout))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_a_function_gets_batches_and_stays_alive(function, capfd):
    fine = function("fine")
    assert fine(RECORDS) == [100.5, 101.5, 102.5, 103.5, 104.5, 105.5]
    assert fine(RECORDS[:1]) == [200.5]
    assert RECORDS[0]["z"] == 0  # it may change its records; they are copies
    assert capfd.readouterr().out == ""  # what it prints is no record
    assert function("lazy")(RECORDS) == [0, 0, 0, 1, 1, 1]
    assert function("array")(MANY) == list(range(3000))


@pytest.mark.parametrize(
    "name, index, message",
    [
        ("breaks", 3, "verify.py:17: ZeroDivisionError"),
        ("hangs", 3, "nothing for 1 s"),
        ("crashes", 3, "killed by signal 11"),
        ("leaves", 3, "exit code 5"),
        ("counts", None, "gave 5 numbers for 6 records"),
        ("nan", 3, "no finite number"),
        ("text", 3, "no finite number"),
        ("none", 0, "TypeError"),
    ],
)
def test_a_function_that_fails_names_the_record(function, name, index, message):
    with pytest.raises(RewardFailed, match=message) as failure:
        function(name, timeout=1)(RECORDS)
    assert failure.value.index == index
    assert "\n" not in str(failure.value)


def test_a_function_whose_process_died_between_two_batches_starts_again(function):
    dies = function("dies_later")
    assert dies(RECORDS) == [1] * 6
    dies._process.join(10)
    assert not dies._process.is_alive()
    assert dies(RECORDS) == [1] * 6


def test_a_process_that_dies_while_it_scores_is_no_broken_pipe(function):
    fine = function("fine")
    os.kill(fine._process.pid, 9)
    fine._process.is_alive = lambda: True  # as it was a moment before
    with pytest.raises(RewardFailed, match="signal 9"):
        fine._ask(MANY)


def test_a_function_that_is_not_there(function, file, tmp_path):
    with pytest.raises(RewardFailed, match="no attribute 'nothing'"):
        function("nothing")
    with pytest.raises(UsageError, match="no file"):
        Function(str(tmp_path / "absent.py"), "f", 1)


@pytest.mark.parametrize("command", ["jq -c .z", "jq -c '{reward: .z, note: 1}'", "awk 'BEGIN {n=0} {print n++}'"])
def test_a_program_reads_records_and_prints_numbers(command):
    assert Program(command, 30)(RECORDS) == [0, 1, 2, 3, 4, 5]
    assert Program(command, 30)(MANY) == list(range(3000))


def test_a_program_may_print_as_much_as_it_reads():
    assert sum(Program("sed 's/{/{\"reward\":1,/'", 30)(MANY)) == 3000


@pytest.mark.parametrize(
    "command, index, message",
    [
        ("jq .z | head -n 3", 3, "3 lines for 6 records"),
        ("jq -c '.z, .z'", 5, "more than 6 lines|12 lines"),
        ("yes 1", 5, "more than 6 lines"),
        ("sed -u '4q;s/.*/1/' && exit 7", 4, "exit code 7"),
        ("kill -9 $$", 0, "signal 9"),
        ("reasonrl-nonexistent-program", 0, "exit code 127"),
        ("seq 3; cat > /dev/null; sleep 60", 3, "nothing for 1 s"),
        ("sleep 60 & cat > /dev/null; exec sleep 60", 0, "nothing for 1 s"),
        ("sed 's/.*/1/;4s/.*/one/'", 3, "'one'; want a number"),
        ("sed 's/.*/1/;4s/.*/{}/'", 3, "no finite number"),
        ("sed 's/.*/1/;4s/.*//'", 3, "want a number"),
        ("cat > /dev/null", 0, "0 lines for 6 records"),
    ],
)
def test_a_program_that_fails_names_the_record(command, index, message):
    start = time.monotonic()
    with pytest.raises(RewardFailed, match=message) as failure:
        Program(command, 1)(RECORDS)
    assert failure.value.index == index
    assert time.monotonic() - start < 10


def test_slow_answers_are_no_hang():
    assert Program("while read -r line; do sleep 0.4; echo 1; done", 1)(RECORDS) == [1] * 6


def test_nothing_is_left_behind(tmp_path):
    mark = tmp_path / "alive"
    with pytest.raises(RewardFailed):
        Program(f"(sleep 3; touch {mark}) & sleep 60", 0.5)(RECORDS)
    time.sleep(3.5)
    assert not mark.exists()


def test_an_empty_program_is_a_usage_error():
    with pytest.raises(UsageError):
        Program(" ", 1)


def test_the_workers_are_gone_after_close(function):
    fine = function("fine")
    pid = fine._process.pid
    fine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
