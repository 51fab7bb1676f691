#!/usr/bin/env bash
# Expert Iteration (Havrilla et al. 2024, arXiv 2403.04642).
#
# Round i samples K solutions of each training question from the latest policy, keeps the correct ones, adds what the
# rounds before kept (D_i = R_i ∪ D_(i-1), at most PER_QUESTION per question), and fine-tunes on D_i starting again from the
# base. Every file is named by its round; a stopped run goes on where it stopped when the same line is given again.
#
#   OUT=runs/ei ROUNDS=2 recipes/expert_iteration.sh
#   TASK=gsm8k BASE=./smollm2 K=4 LIMIT=1000 SFT="--lora-rank 8" OUT=runs/smollm2 recipes/expert_iteration.sh
set -euo pipefail

: "${OUT:=runs/expert-iteration}"   # everything is written here
: "${TASK:=mini}"                   # mini, gsm8k, or a JSONL or Python file
: "${BASE:=tiny}"                   # each round is fine-tuned from these weights
: "${START:=$BASE}"                 # round 1 samples from these (an SFT checkpoint, say)
: "${ROUNDS:=2}"
: "${K:=8}"                         # samples per question
: "${LIMIT:=3000}"                  # training questions
: "${TEMPERATURE:=1}"
: "${MAX_TOKENS:=128}"
: "${REWARD:=exact}"                # what is kept by: exact, or orm (a verifier, $REASONRL_ORM or the bundled one)
: "${MIN_REWARD:=$([ "$REWARD" = exact ] && echo 1 || echo 0.5)}"
: "${PER_QUESTION:=4}"              # different solutions kept of a question, so that easy ones do not drown hard ones
: "${EXTRA:=}"                      # a file of more records to train on, such as reference solutions
: "${FIRST:=}"                      # more flags for the sampling of round 1, such as --shots 4
: "${SFT:=}"                        # more flags for sft
: "${EVAL:=1}"                      # 0: train only, no evaluation and no report
: "${SEED:=0}"                       # of sampling, 100 more each round, and of training
: "${REASONRL:=reasonrl}" "${PLAN:=}"
export TASK MAX_TOKENS SEED REASONRL # and what evaluate.sh beside this reads: EVAL_LIMIT, EVAL_PASS_LIMIT, EVAL_K

ALGORITHM=ei$([ "$REWARD" = exact ] || echo "-$REWARD")

reading=() form=() # a Python file reads its own answers, and may put questions in its own form
[[ $TASK != *.py ]] || reading=(--task "$TASK")
[[ $TASK != *.py ]] || ! grep -q '^PROMPT\b' "$TASK" || form=(--prompt "$TASK")

run() { [ "$PLAN" ] || echo "+ reasonrl $*" >&2; $REASONRL "$@"; }

sample() { run sample --task "$TASK" --max-tokens "$MAX_TOKENS" --resume "$@"; }

evaluate() { # MODEL ROUND
  [ "$EVAL" = 1 ] || return 0
  "$(dirname "$0")/evaluate.sh" "$1" "$OUT/round$2" algorithm="$ALGORITHM" seed="$SEED" round="$2"
}

[ "$PLAN" ] || mkdir -p "$OUT"
evaluate "$START" 0

policy=$START
kept=()
flags=$FIRST
for round in $(seq "$ROUNDS"); do
  at="$OUT/round$round"
  # A seed per round: with one for all, the k-th sample of a question would meet the same random numbers in every round.
  # shellcheck disable=SC2086
  sample --seed "$((SEED + 100 * (round - 1)))" --model "$policy" --limit "$LIMIT" --k "$K" --temperature "$TEMPERATURE" $flags -o "$at.samples.jsonl"
  run score "$at.samples.jsonl" "${reading[@]}" --reward "$REWARD" --resume -o "$at.scored.jsonl"
  run filter "$at.scored.jsonl" "${kept[@]}" --min-reward "$MIN_REWARD" --dedup equations \
    --per-question "$PER_QUESTION" --resume -o "$at.kept.jsonl"
  # shellcheck disable=SC2086
  run sft "$at.kept.jsonl" ${EXTRA:+"$EXTRA"} --model "$BASE" "${form[@]}" --seed "$SEED" $SFT --resume -o "$at"
  policy=$at kept=("$at.kept.jsonl") flags=
  evaluate "$policy" "$round"
done

[ "$EVAL" = 0 ] || run report "$OUT"/round*.metrics.jsonl --title "Expert Iteration on $TASK" --force -o "$OUT/report"
