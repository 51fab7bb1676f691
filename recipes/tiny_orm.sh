#!/usr/bin/env bash
# The bundled outcome reward model `tiny-orm`: recipes/tiny_orm.sh DIR (about two hours on one core)
#
# A verifier should know more than the policy whose solutions it scores: it starts from a model like `tiny` of twice the
# depth, pretrained on right solutions only, learns from samples of `tiny`, and meanwhile goes on learning to write right
# solutions. Kept in fp16.
#
# With QUALITY=1 it is measured on mini/test: maj@1, and at two temperatures maj@96, pass@96 and rerank@96, with intervals.
set -euo pipefail

dir=${1:?usage: tiny_orm.sh DIR}
: "${REASONRL:=reasonrl}" "${PYTHON:=python}" "${K:=12}" "${QUESTIONS:=10000}" "${EPOCHS:=2}" "${PROBLEMS:=160000}"
export OMP_NUM_THREADS=1  # the order of a sum depends on the number of threads

run() { echo "+ ${REASONRL##* -m } $*" >&2; $REASONRL "$@"; }

SLIP=0 LAYERS=4 PROBLEMS=$PROBLEMS "$(dirname "$0")/tiny.sh" "$dir/base"
run sample --model tiny --task mini --limit "$QUESTIONS" --k "$K" --max-tokens 128 --resume -o "$dir/samples.jsonl"
run score "$dir/samples.jsonl" --resume -o "$dir/scored.jsonl"
run orm "$dir/scored.jsonl" --model "$dir/base/tiny" --preset tiny --epochs "$EPOCHS" --lr 2e-3 --share-prompts \
  --lm-weight 1 --held-out 0.05 --resume -o "$dir/fp32"
"$PYTHON" - "$dir" <<'END'
import shutil, sys
from transformers import AutoModelForTokenClassification
directory = sys.argv[1]
shutil.copytree(f"{directory}/fp32", f"{directory}/tiny-orm", dirs_exist_ok=True)
AutoModelForTokenClassification.from_pretrained(f"{directory}/fp32").half().save_pretrained(f"{directory}/tiny-orm")
END

if [ -n "${QUALITY:-}" ]; then
  score() { run score "$dir/$1.jsonl" --reward orm --orm "$dir/tiny-orm" --resume -o "$dir/$1.scored.jsonl"; }
  run sample --model tiny --task mini --split test --temperature 0 --resume -o "$dir/greedy.jsonl"
  score greedy
  for temperature in 1 0.7; do
    samples=test-$temperature
    run sample --model tiny --task mini --split test --limit 300 --k 96 --temperature "$temperature" --resume -o "$dir/$samples.jsonl"
    score "$samples"
    run eval "$dir/greedy.scored.jsonl" "$dir/$samples.scored.jsonl" --set temperature="$temperature" --resume \
      -o "$dir/metrics-$temperature.jsonl"
  done
fi
