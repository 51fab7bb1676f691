#!/usr/bin/env bash
# Metrics of a policy: greedy on many test questions, and EVAL_K samples on fewer. Used by the recipes beside it.
#
#   recipes/evaluate.sh MODEL PREFIX LABEL=VALUE...    writes PREFIX.*.jsonl; the samples stay for other labels
set -euo pipefail

: "${TASK:=mini}" "${MAX_TOKENS:=128}" "${SEED:=0}" "${REASONRL:=reasonrl}" "${PLAN:=}"
: "${EVAL_LIMIT:=1000}"             # test questions answered greedily
: "${EVAL_PASS_LIMIT:=300}"         # test questions sampled EVAL_K times; 0: none
: "${EVAL_K:=32}"
: "${EVAL_TEMPERATURE:=1}"
: "${EVAL_REWARD:=exact}"           # orm: of those EVAL_K samples, for rerank@k (a verifier, $REASONRL_ORM or the bundled one)
: "${EVAL_SAMPLE:=}"                # more flags for sample

model=$1 at=$2
shift 2
: "${METRICS:=$at.metrics.jsonl}"   # the record of metrics

reading=() # a Python file reads its own answers
[[ $TASK != *.py ]] || reading=(--task "$TASK")

run() { [ "$PLAN" ] || echo "+ reasonrl $*" >&2; $REASONRL "$@"; }

sample() { # PART REWARD FLAGS...: samples of the test split in PREFIX.PART.jsonl, scored in PREFIX.PART.scored.jsonl
  local scored=$at.$1.scored.jsonl
  [ "$2" = exact ] || scored=$at.$1.scored-$2.jsonl
  # shellcheck disable=SC2086
  run sample --task "$TASK" --split test --model "$model" --max-tokens "$MAX_TOKENS" --seed "$SEED" "${@:3}" $EVAL_SAMPLE --resume \
    -o "$at.$1.jsonl"
  run score "$at.$1.jsonl" "${reading[@]}" -q $([ "$2" = exact ] || echo --reward "$2") --resume -o "$scored"
  parts+=("$scored")
}

parts=()
sample greedy exact --limit "$EVAL_LIMIT" --temperature 0
if [ "$EVAL_PASS_LIMIT" -gt 0 ]; then
  sample test "$EVAL_REWARD" --limit "$EVAL_PASS_LIMIT" --k "$EVAL_K" --temperature "$EVAL_TEMPERATURE"
fi
run eval "${parts[@]}" --resume "${@/#/--set=}" -o "$METRICS"
