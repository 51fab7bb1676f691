#!/usr/bin/env bash
# The bundled outcome reward model `tiny-orm`, from `tiny`: recipes/tiny_orm.sh DIR (about twenty minutes on one core)
#
# It learns from K samples of `tiny` on each question, each different one once, and from the reference, which is one
# more right solution of every question. Two layers turned out to be too few to check a solution (as many errors on the
# questions that were learnt from as on others), so it has four; in fp16 it is smaller than `tiny`.
#
# Two more lines, with QUALITY=1, measure it on mini/test: maj@1, maj@96, pass@96 and rerank@96 with their intervals.
set -euo pipefail

dir=${1:?usage: tiny_orm.sh DIR}
: "${REASONRL:=reasonrl}" "${PYTHON:=python}" "${K:=4}" "${QUESTIONS:=10000}" "${LAYERS:=4}"
: "${ORM:=--epochs 3 --lr 2e-3 --lm-weight 1}"
export OMP_NUM_THREADS=1  # the order of a sum depends on the number of threads
weights=$(dirname "$0")/tiny_orm_weights.py

run() { echo "+ ${REASONRL##* -m } $*" >&2; $REASONRL "$@"; }

mkdir -p "$dir"
run sample --model tiny --task mini --limit "$QUESTIONS" --k "$K" --max-tokens 128 --resume -o "$dir/samples.jsonl"
run data mini --limit "$QUESTIONS" | jq -c '. + {completion: .reference, finish: "eos"}' > "$dir/references.jsonl"
run score "$dir/references.jsonl" "$dir/samples.jsonl" --resume -o "$dir/scored.jsonl"
run filter "$dir/scored.jsonl" --dedup text --resume -o "$dir/distinct.jsonl"
"$PYTHON" "$weights" deepen tiny "$dir/deeper" --layers "$LAYERS"
# shellcheck disable=SC2086
run orm "$dir/distinct.jsonl" --model "$dir/deeper" --preset tiny $ORM --share-prompts --held-out 0.05 --resume \
  -o "$dir/trained"
"$PYTHON" "$weights" halve "$dir/trained" "$dir/tiny-orm"

if [ -n "${QUALITY:-}" ]; then
  run sample --model tiny --task mini --split test --temperature 0 --resume -o "$dir/greedy.jsonl"
  run sample --model tiny --task mini --split test --limit 300 --k 96 --resume -o "$dir/test.jsonl"
  for part in greedy test; do
    run score "$dir/$part.jsonl" --reward orm --orm "$dir/tiny-orm" --resume -o "$dir/$part.scored.jsonl"
  done
  run eval "$dir/greedy.scored.jsonl" "$dir/test.scored.jsonl" --resume -o "$dir/metrics.jsonl"
fi
