#!/usr/bin/env bash
# Return-conditioned RL (Havrilla et al. 2024, arXiv 2403.04642).
#
# Expert Iteration makes the policy that solutions are sampled from. Their steps are labelled by what they lead to, and
# the base is fine-tuned on the solutions with a label before each step. Evaluated are the base, that policy, and the
# result conditioned on good and on bad steps. A stopped run goes on when the same line is given again.
#
#   OUT=runs/rcrl recipes/rcrl.sh
#   POLICY=runs/expert-iteration/round2 RCRL="--k 16 --labels tokens" OUT=runs/rcrl-tokens recipes/rcrl.sh
#   TASK=gsm8k BASE=./smollm2 POLICY=runs/gsm8k/round2 RCRL="--lora-rank 8" OUT=runs/gsm8k-rcrl recipes/rcrl.sh
set -euo pipefail

: "${OUT:=runs/rcrl}"               # everything is written here
: "${TASK:=mini}"                   # mini, gsm8k, or a JSONL file
: "${BASE:=tiny}"                   # the weights that are fine-tuned
: "${POLICY:=}"                     # solutions are sampled from this; without it, from Expert Iteration's last round
: "${ROUNDS:=1}"                    # of Expert Iteration, in $OUT/ei
: "${LIMIT:=1500}"                  # training questions whose solutions are labelled
: "${SOLUTIONS:=4}"                 # solutions per question
: "${K:=8}"                         # completions of each prefix
: "${RCRL:=}"                       # more flags for rcrl
: "${NAME:=rcrl}"                   # label of the results
: "${EVAL_BASE:=1}"                 # 0: do not evaluate the base
: "${EVAL_POLICY:=1}"               # 0: nor the policy that solutions are sampled from
: "${EVAL_K:=96}" "${EVAL_REWARD:=orm}" # with the outcome reward model there is rerank@k
: "${BAD_K:=8}"                     # samples per question with bad labels
: "${MAX_TOKENS:=128}" "${SEED:=0}" "${REASONRL:=reasonrl}"
export TASK MAX_TOKENS SEED REASONRL EVAL_K EVAL_REWARD

run() { echo "+ reasonrl $*" >&2; $REASONRL "$@"; }

evaluate() { # MODEL NAME FLAGS...
  EVAL_SAMPLE="${*:3}" "$(dirname "$0")/evaluate.sh" "$1" "$OUT/$2" algorithm="$2" seed="$SEED"
}

mkdir -p "$OUT"
if [ -z "$POLICY" ]; then
  OUT="$OUT/ei" BASE="$BASE" LIMIT="${EI_LIMIT:-3000}" K="${EI_K:-8}" ROUNDS="$ROUNDS" EVAL_LIMIT=300 EVAL_PASS_LIMIT=0 \
    EVAL_REWARD=exact "$(dirname "$0")/expert_iteration.sh"
  POLICY="$OUT/ei/round$ROUNDS"
fi
run rcrl --task "$TASK" --limit "$LIMIT" --model "$POLICY" --solutions "$SOLUTIONS" --k "$K" --seed "$SEED" \
  --max-tokens "$MAX_TOKENS" --resume --save-data "$OUT/labelled.jsonl"
# shellcheck disable=SC2086
run rcrl --data "$OUT/labelled.jsonl" --base "$BASE" --seed "$SEED" $RCRL --resume -o "$OUT/policy"

[ "$EVAL_BASE" = 0 ] || evaluate "$BASE" base
[ "$EVAL_POLICY" = 0 ] || evaluate "$POLICY" ei
evaluate "$OUT/policy" "$NAME-good"
EVAL_K=$BAD_K evaluate "$OUT/policy" "$NAME-bad" '--condition=[BAD]' # no file is called that
run report "$OUT"/*.metrics.jsonl --title "Return-conditioned RL on $TASK" --force -o "$OUT/report"
