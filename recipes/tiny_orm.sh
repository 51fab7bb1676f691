#!/usr/bin/env bash
# The bundled outcome reward model `tiny-orm`, from `tiny`: recipes/tiny_orm.sh DIR (about fifteen minutes on one core)
#
# Two more lines, with QUALITY=1, measure it on mini/test: maj@1, maj@96, pass@96 and rerank@96 with their intervals.
set -euo pipefail

dir=${1:?usage: tiny_orm.sh DIR}
: "${REASONRL:=reasonrl}" "${K:=8}" "${QUESTIONS:=10000}" "${EPOCHS:=2}"
export OMP_NUM_THREADS=1  # the order of a sum depends on the number of threads

run() { echo "+ ${REASONRL##* -m } $*" >&2; $REASONRL "$@"; }

mkdir -p "$dir"
run sample --model tiny --task mini --limit "$QUESTIONS" --k "$K" --max-tokens 128 --resume -o "$dir/samples.jsonl"
run score "$dir/samples.jsonl" --resume -o "$dir/scored.jsonl"
run orm "$dir/scored.jsonl" --model tiny --preset tiny --epochs "$EPOCHS" --held-out 0.05 --resume -o "$dir/tiny-orm"

if [ -n "${QUALITY:-}" ]; then
  run sample --model tiny --task mini --split test --temperature 0 --resume -o "$dir/greedy.jsonl"
  run sample --model tiny --task mini --split test --limit 300 --k 96 --resume -o "$dir/test.jsonl"
  for part in greedy test; do
    run score "$dir/$part.jsonl" --reward orm --orm "$dir/tiny-orm" --resume -o "$dir/$part.scored.jsonl"
  done
  run eval "$dir/greedy.scored.jsonl" "$dir/test.scored.jsonl" --resume -o "$dir/metrics.jsonl"
fi
