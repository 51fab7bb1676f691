#!/usr/bin/env bash
# Expert Iteration (Havrilla et al. 2024, arXiv 2403.04642).
#
# Round i samples K solutions of each training question from the latest policy, keeps the correct ones, adds what the
# rounds before kept (D_i = R_i ∪ D_(i-1)), and fine-tunes on D_i starting again from the base. Every file is named by
# its round; a stopped run goes on where it stopped when the same line is given again.
#
#   OUT=runs/ei ROUNDS=2 recipes/expert_iteration.sh
#   TASK=gsm8k BASE=./smollm2 K=4 LIMIT=1000 SFT="--lora-rank 8" OUT=runs/smollm2 recipes/expert_iteration.sh
set -euo pipefail

: "${OUT:=runs/expert-iteration}"   # everything is written here
: "${TASK:=mini}"                   # mini, gsm8k, or a JSONL file
: "${BASE:=tiny}"                   # each round is fine-tuned from these weights
: "${START:=$BASE}"                 # round 1 samples from these (an SFT checkpoint, say)
: "${ROUNDS:=2}"
: "${K:=8}"                         # samples a question
: "${LIMIT:=3000}"                  # training questions
: "${TEMPERATURE:=1}"
: "${MAX_TOKENS:=128}"
: "${REWARD:=exact}"                # what is kept by: exact, or orm (a verifier, $REASONRL_ORM or the bundled one)
: "${MIN_REWARD:=$([ "$REWARD" = exact ] && echo 1 || echo 0.5)}"
: "${PER_QUESTION:=4}"              # different solutions kept of a question, so that easy ones do not drown hard ones
: "${EXTRA:=}"                      # a file of more records to train on, reference solutions say
: "${SFT:=}"                        # more flags for sft
: "${EVAL_LIMIT:=1000}"             # test questions answered greedily
: "${EVAL_PASS_LIMIT:=300}"         # test questions sampled EVAL_K times; 0: none
: "${EVAL_K:=32}"
: "${EVAL_TEMPERATURE:=1}"
: "${SEED:=0}"                       # of sampling and of training
: "${REASONRL:=reasonrl}"

ALGORITHM=ei$([ "$REWARD" = exact ] || echo "-$REWARD")

run() { echo "+ reasonrl $*" >&2; $REASONRL "$@"; }

sample() { run sample --task "$TASK" --max-tokens "$MAX_TOKENS" --seed "$SEED" --resume "$@"; }

evaluate() { # MODEL ROUND: greedy on many test questions, EVAL_K samples on fewer
  local at="$OUT/round$2" parts=(greedy) scored=()
  sample --model "$1" --split test --limit "$EVAL_LIMIT" --temperature 0 -o "$at.greedy.jsonl"
  if [ "$EVAL_PASS_LIMIT" -gt 0 ]; then
    sample --model "$1" --split test --limit "$EVAL_PASS_LIMIT" --k "$EVAL_K" --temperature "$EVAL_TEMPERATURE" \
      -o "$at.test.jsonl"
    parts+=(test)
  fi
  for part in "${parts[@]}"; do
    run score "$at.$part.jsonl" -q --resume -o "$at.$part.scored.jsonl"
    scored+=("$at.$part.scored.jsonl")
  done
  run eval "${scored[@]}" --resume \
    --set algorithm="$ALGORITHM" --set seed="$SEED" --set round="$2" -o "$at.metrics.jsonl"
}

mkdir -p "$OUT"
evaluate "$START" 0

policy=$START
kept=()
for round in $(seq "$ROUNDS"); do
  at="$OUT/round$round"
  sample --model "$policy" --limit "$LIMIT" --k "$K" --temperature "$TEMPERATURE" -o "$at.samples.jsonl"
  run score "$at.samples.jsonl" --reward "$REWARD" --resume -o "$at.scored.jsonl"
  run filter "$at.scored.jsonl" "${kept[@]}" --min-reward "$MIN_REWARD" --dedup equations \
    --per-question "$PER_QUESTION" --resume -o "$at.kept.jsonl"
  # shellcheck disable=SC2086
  policy=$(run sft "$at.kept.jsonl" ${EXTRA:+"$EXTRA"} --model "$BASE" --seed "$SEED" $SFT --resume -o "$at")
  kept=("$at.kept.jsonl")
  evaluate "$policy" "$round"
done

run report "$OUT"/round*.metrics.jsonl --title "Expert Iteration on $TASK" --force -o "$OUT/report"
