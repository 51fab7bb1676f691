"""What a pipe of two torch stages costs against both stages run one after the other.

    python benchmarks/pipe_cost.py

Two processes whose threads spin while they wait slow each other tenfold on a small machine; every stage therefore
sets OMP_WAIT_POLICY=PASSIVE before torch is imported. The stages here are `sample` and `score --reward orm`; the pipe
must cost at most 1.2 times both in turn.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time


def seconds(command: str, directory: str) -> float:
    start = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    subprocess.run(["bash", "-c", f"set -euo pipefail; {command}"], cwd=directory, env=environment, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--require", type=float, default=1.2, help="exit 1 above this ratio")
    options = parser.parse_args()

    first = f"reasonrl sample -q --task mini --limit {options.problems} --k {options.k}"
    second = "reasonrl score -q --reward orm"
    ways = {
        "in turn": f"{first} > sampled.jsonl; {second} sampled.jsonl > scored.jsonl",
        "piped": f"{first} | {second} > scored.jsonl",
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(options.turns):
            for name, command in ways.items():
                taken[name].append(seconds(command, directory))
    median = {name: statistics.median(times) for name, times in taken.items()}
    print(f"`sample` and `score --reward orm`, {options.problems} problems × {options.k}, {os.cpu_count()} cores\n")
    print("| way | seconds (median) | fastest | slowest |\n| --- | --- | --- | --- |")
    for name, times in taken.items():
        print(f"| {name} | {median[name]:.1f} | {min(times):.1f} | {max(times):.1f} |")
    ratio = median["piped"] / median["in turn"]
    print(f"\nratio {ratio:.2f}, at most {options.require}")
    raise SystemExit(ratio > options.require)


if __name__ == "__main__":
    main()
