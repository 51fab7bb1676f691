#!/usr/bin/env bash
# Metrics of a policy: greedy on many test questions, and EVAL_K samples on fewer. Used by the recipes beside it.
#
#   recipes/evaluate.sh MODEL PREFIX LABEL=VALUE...    writes PREFIX.*.jsonl, the record of metrics in PREFIX.metrics.jsonl
set -euo pipefail

: "${TASK:=mini}" "${MAX_TOKENS:=128}" "${SEED:=0}" "${REASONRL:=reasonrl}"
: "${EVAL_LIMIT:=1000}"             # test questions answered greedily
: "${EVAL_PASS_LIMIT:=300}"         # test questions sampled EVAL_K times; 0: none
: "${EVAL_K:=32}"
: "${EVAL_TEMPERATURE:=1}"
: "${EVAL_REWARD:=exact}"           # orm: with rerank@k
: "${EVAL_SAMPLE:=}"                # more flags for sample

model=$1 at=$2
shift 2

run() { echo "+ reasonrl $*" >&2; $REASONRL "$@"; }

sample() { # PART FLAGS...: samples of the test split in PREFIX.PART.jsonl, scored in PREFIX.PART.scored.jsonl
  # shellcheck disable=SC2086
  run sample --task "$TASK" --split test --model "$model" --max-tokens "$MAX_TOKENS" --seed "$SEED" "${@:2}" $EVAL_SAMPLE \
    --resume -o "$at.$1.jsonl"
  run score "$at.$1.jsonl" --reward "$EVAL_REWARD" -q --resume -o "$at.$1.scored.jsonl"
}

sample greedy --limit "$EVAL_LIMIT" --temperature 0
parts=("$at.greedy.scored.jsonl")
if [ "$EVAL_PASS_LIMIT" -gt 0 ]; then
  sample test --limit "$EVAL_PASS_LIMIT" --k "$EVAL_K" --temperature "$EVAL_TEMPERATURE"
  parts+=("$at.test.scored.jsonl")
fi
run eval "${parts[@]}" --resume "${@/#/--set=}" -o "$at.metrics.jsonl"
