"""How much of `score --reward orm` is spent in the model, and whether its memory keeps to the token budget.

    python benchmarks/orm_scoring.py                      tiny, 100 problems × 96 samples; then twice as many
    python benchmarks/orm_scoring.py --samples test.jsonl the same on samples that are there already

The share is of the seconds after start-up (importing torch, loading the model), which a run on two samples measures.
Peak memory must not grow with the number of samples, beyond a tenth, whatever the budget.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

MEASURE = (
    "import resource,subprocess,sys; subprocess.run(sys.argv[1:], check=True); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def score(samples: Path, orm: str, budget: int) -> tuple[float, float, float]:
    """Seconds in all, seconds in the model, and peak memory in MB, of one run."""
    out = samples.with_suffix(".scored")
    stage = ("reasonrl", "score", samples, "--reward", "orm", "--orm", orm, "--batch-tokens", budget, "-qf", "-o", out)
    line = [sys.executable, "-c", MEASURE, sys.executable, "-m", *map(str, stage)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    about = json.loads(Path(f"{out}.meta.json").read_text())
    return about["seconds"], about["seconds_of"]["orm"], int(done.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--k", type=int, default=96)
    parser.add_argument("--samples", type=Path, help="JSONL of at least twice as many problems as --problems, × K")
    parser.add_argument("--orm", default="tiny-orm")
    parser.add_argument("--budgets", type=int, nargs="+", default=[1 << 13, 1 << 15], help="values of --batch-tokens")
    parser.add_argument("--require", type=float, default=0.8, help="exit 1 below this share, at the first budget")
    options = parser.parse_args()
    count = 2 * options.problems * options.k
    shares, grown = [], []
    with tempfile.TemporaryDirectory() as directory:
        whole = options.samples or Path(directory, "whole.jsonl")
        if not options.samples:
            stage = f"sample --task mini --split test --limit {2 * options.problems} --k {options.k} -q -o {whole}"
            subprocess.run([sys.executable, "-m", "reasonrl", *stage.split()], check=True)
        with open(whole, "rb") as file:
            lines = list(islice(file, count))
        if len(lines) < count:
            raise SystemExit(f"{whole}: {len(lines)} samples, {count} are needed")
        parts = {name: Path(directory, f"{name}.jsonl") for name in ("start", "half", "all")}
        for part, size in zip(parts.values(), (2, count // 2, count), strict=True):
            part.write_bytes(b"".join(lines[:size]))
        start, _, idle = score(parts["start"], options.orm, options.budgets[0])
        print("| --batch-tokens | samples | seconds after start-up | in the model | peak memory, MB |")
        print("| --- | --- | --- | --- | --- |")
        for budget in options.budgets:
            peaks = []
            for name, size in (("half", count // 2), ("all", count)):
                seconds, model, peak = score(parts[name], options.orm, budget)
                shares.append(model / (seconds - start))
                peaks.append(peak)
                print(f"| {budget:,} | {size:,} | {seconds - start:.1f} | {shares[-1]:.0%} | {peak:,.0f} |", flush=True)
            grown.append(peaks[1] / peaks[0])
    print(f"\nstart-up {start:.1f} s and {idle:,.0f} MB; memory for twice the samples × "
          + ", × ".join(f"{value:.2f}" for value in grown))  # fmt: skip
    raise SystemExit(shares[1] < options.require or max(grown) > 1.1)


if __name__ == "__main__":
    main()
