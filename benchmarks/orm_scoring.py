"""How much of `score --reward orm` is spent in the model, and whether its memory keeps to the token budget.

    python benchmarks/orm_scoring.py                    tiny, 100 problems × 96 samples; then twice as many

The share is of the seconds after start-up (importing torch, loading the model), which a run on two samples measures.
Peak memory must not grow with the number of samples, beyond a tenth.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def reasonrl(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "reasonrl", *map(str, words), "-q"], check=True)


def score(samples: Path, options: argparse.Namespace) -> tuple[float, float, float]:
    """Seconds in all, seconds in the model, and peak memory in MB, of one run."""
    out = samples.with_suffix(".scored")
    line = [
        sys.executable,
        "-m",
        "reasonrl",
        "score",
        samples,
        "--reward",
        "orm",
        "--orm",
        options.orm,
        "-q",
        "-f",
        "-o",
        out,
    ]
    measure = "import resource,subprocess,sys; subprocess.run(sys.argv[1:], check=True); "
    measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", measure, *map(str, line)], capture_output=True, text=True, check=True)
    about = json.loads(Path(f"{out}.meta.json").read_text())
    return about["seconds"], about["seconds_of"]["orm"], int(done.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--k", type=int, default=96)
    parser.add_argument("--orm", default="tiny-orm")
    parser.add_argument("--require", type=float, default=0.8, help="exit 1 below this share")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        whole = Path(directory, "whole.jsonl")
        reasonrl(
            "sample",
            "--task",
            "mini",
            "--split",
            "test",
            "--limit",
            2 * options.problems,
            "--k",
            options.k,
            "-o",
            whole,
        )
        lines = whole.read_bytes().splitlines(keepends=True)
        rows = []
        for name, count in (("start", 2), ("half", len(lines) // 2), ("all", len(lines))):
            part = Path(directory, f"{name}.jsonl")
            part.write_bytes(b"".join(lines[:count]))
            rows.append((count, *score(part, options)))
    start = rows[0][1]
    print("| samples | seconds after start-up | in the model | peak memory, MB |\n| --- | --- | --- | --- |")
    for count, seconds, model, memory in rows[1:]:
        share = model / (seconds - start)
        print(f"| {count:,} | {seconds - start:.1f} | {share:.0%} | {memory:,.0f} |")
    grown = rows[2][3] / rows[1][3]
    print(f"\nstart-up {start:.1f} s; memory × {grown:.2f} for twice the samples")
    raise SystemExit(share < options.require or grown > 1.1)


if __name__ == "__main__":
    main()
