#!/usr/bin/env bash
# The bundled model `tiny`, from nothing: recipes/tiny.sh DIR (about five minutes on one core)
#
# Pretrained on 80,000 worked solutions in which each step goes wrong with probability 0.45, so that it has the right
# solution in it but does not always say so. On one machine the weights come out bit for bit the same each time.
set -euo pipefail

dir=${1:?usage: tiny.sh DIR}
: "${PYTHON:=python}" "${PROBLEMS:=80000}" "${SLIP:=0.45}" "${HIDDEN:=128}" "${LAYERS:=2}"
export OMP_NUM_THREADS=1  # the order of a sum depends on the number of threads

"$PYTHON" "$(dirname "$0")/tiny_init.py" "$dir" --problems "$PROBLEMS" --slip "$SLIP" --hidden "$HIDDEN" \
  --layers "$LAYERS" --seed 0
"$PYTHON" -m reasonrl sft "$dir/pretrain.jsonl" --model "$dir/model" --preset tiny --epochs 1 --batch-size 32 --lr 4e-3 --final-lr 0 \
  --warmup 0.05 --weight-decay 0.01 --save-every 1000 --resume -o "$dir/tiny"
