#!/usr/bin/env bash
# An outcome reward model on real solutions: OpenAI's published GSM8K samples (2,640 of four GPT-3 models), by question
# two thirds to train and one third to evaluate on, against a baseline that sees no more than surface features.
#
#   recipes/smollm2.sh ./smollm2 && REASONRL_DATA=data MODEL=./smollm2 OUT=runs/orm-gsm8k recipes/orm_gsm8k.sh
set -euo pipefail

: "${MODEL:?a model directory: recipes/smollm2.sh DIR makes one}"
: "${DATA:=${REASONRL_DATA:?a directory with gsm8k/model_solutions.jsonl in it}/gsm8k/model_solutions.jsonl}"
: "${OUT:=runs/orm-gsm8k}"          # everything is written here
: "${HELD_OUT:=0.3333}"             # of the questions
: "${SEED:=0}"
: "${LIMIT:=}"                      # solutions, for a trial run
: "${ORM:=--lora-rank 16 --lora-layers 12 --share-prompts --epochs 1 --batch-size 8 --lr 8e-4}"
: "${REASONRL:=reasonrl}" "${PYTHON:=python}"

run() { echo "+ ${REASONRL##* -m } $*" >&2; $REASONRL "$@"; }

mkdir -p "$OUT"
# The publisher's own verdict is the label. Calculator marks (<<3*4=12>>) go: a policy of today does not write them.
jq -c '{id, k: input_line_number, sampler, question, completion: (.completion | gsub("<<[^<>]*>>"; "")),
        finish: "eos", correct: .is_correct}' "$DATA" | sed -n "1,${LIMIT:-\$}p" > "$OUT/solutions.jsonl"

# shellcheck disable=SC2086
orm=$(run orm "$OUT/solutions.jsonl" --model "$MODEL" $ORM --held-out "$HELD_OUT" --seed "$SEED" --save-every 10 --resume -o "$OUT/orm")
"$PYTHON" "$(dirname "$0")/../benchmarks/orm_baseline.py" "$OUT/solutions.jsonl" --orm "$orm" --held-out "$HELD_OUT" --seed "$SEED" | tee "$OUT/table.md"
