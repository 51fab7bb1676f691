"""`score --reward exact` and `filter --dedup text` against jq, on one million rows (about 900 MB).

    python benchmarks/jsonl_throughput.py                 one million rows, about 3 GB in the temporary directory
    python benchmarks/jsonl_throughput.py --rows 100000   a shorter look

The rows are the published model solutions of $REASONRL_DATA/gsm8k, `answer` read from their `reference`, repeated
under fresh ids. Each command reads the file and writes a file, in turn, alone on the machine. Exit code 1 if score or
filter takes longer than `jq -c 'select(.is_correct)'`, or score needs 150 MB of memory or more.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import orjson

MEMORY_LIMIT = 150  # MB, of score
DATA = Path(os.environ.get("REASONRL_DATA") or Path(__file__).parents[2] / "shared" / "data")


def build(target: Path, rows: int) -> None:
    """Writes `rows` records to `target`, with ids of their own and an `answer`."""
    published = [orjson.loads(line) for line in (DATA / "gsm8k" / "model_solutions.jsonl").open("rb")]
    for record in published:
        record["answer"] = record["reference"].rpartition("A:")[2].strip()
    with target.open("wb") as out:
        for number in range(rows):
            record = published[number % len(published)]
            out.write(orjson.dumps(record | {"id": f"{record['id']}/{number // len(published)}"}) + b"\n")


class Cost(NamedTuple):
    """Of one command: seconds by the clock, seconds on a core, and peak resident memory in MB."""

    wall: float
    cpu: float
    memory: float


def run(command: list[str], output: Path) -> Cost:
    """Runs a command with stdout in `output`."""
    # A process of its own for each, because the peak of all children is what the system remembers.
    probe = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode;"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    with output.open("wb") as stdout:
        start = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-S", "-c", probe, *command], stdout=stdout, stderr=subprocess.PIPE, check=True, text=True
        )
        wall = time.perf_counter() - start
    cpu, kilobytes = ended.stderr.split()[-2:]
    return Cost(wall, float(cpu), int(kilobytes) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        rows, out = Path(directory, "rows.jsonl"), Path(directory, "out.jsonl")
        build(rows, options.rows)
        reasonrl = [sys.executable, "-m", "reasonrl"]
        commands = {
            "jq -c 'select(.is_correct)'": ["jq", "-c", "select(.is_correct)", str(rows)],
            "reasonrl score --reward exact": [*reasonrl, "score", "--reward", "exact", str(rows)],
            "reasonrl filter --dedup text": [*reasonrl, "filter", "--dedup", "text", str(rows)],
        }
        measured = {name: run(command, out) for name, command in commands.items()}
        size = rows.stat().st_size / 1e6
    jq, score, filtering = measured.values()
    version = subprocess.run(["jq", "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{options.rows:,} rows, {size:,.0f} MB. {platform.machine()}, {os.cpu_count()} cores,", end=" ")
    print(f"load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, {version}.\n")
    print("| command | seconds | rows/s | times jq's speed | CPU seconds | peak memory (MB) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, cost in measured.items():
        rate, ratio = options.rows / cost.wall, jq.wall / cost.wall
        print(f"| `{name}` | {cost.wall:.1f} | {rate:,.0f} | {ratio:.2f} | {cost.cpu:.1f} | {cost.memory:.0f} |")
    kept = max(score.wall, filtering.wall) < jq.wall and score.memory < MEMORY_LIMIT
    print(f"\nBoth faster than jq, score under {MEMORY_LIMIT} MB: {'yes' if kept else 'NO'}")
    raise SystemExit(not kept)


if __name__ == "__main__":
    main()
