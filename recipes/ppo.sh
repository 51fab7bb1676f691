#!/usr/bin/env bash
# Proximal policy optimisation (Havrilla et al. 2024, arXiv 2403.04642), or GRPO or RLOO in the same loop.
#
# One stage draws rollouts, grades and scores them, and learns; the base, the checkpoints on the way and the last one are
# evaluated against the number of samples drawn so far. A stopped run goes on when the same line is given again.
#
#   OUT=runs/ppo recipes/ppo.sh
#   REWARD=dense OUT=runs/ppo-dense recipes/ppo.sh
#   TASK=gsm8k BASE=./smollm2 PPO="--lora-rank 16 --advantage grpo --lr 1e-5" OUT=runs/grpo recipes/ppo.sh
set -euo pipefail

: "${OUT:=runs/ppo}"                # everything is written here
: "${TASK:=mini}"                   # mini, gsm8k, or a JSONL file
: "${BASE:=tiny}"                   # the policy to start from, and the reference of the KL penalty
: "${REWARD:=exact}"                # exact, dense, orm, FILE.py:FUNCTION; several with a space between: their sum
: "${SAMPLES:=24576}"               # rollouts in all
: "${BATCH:=512}"                   # rollouts per update
: "${KEEP:=16}"                     # updates between the checkpoints that are evaluated
: "${PPO:=}"                        # more flags for ppo
: "${NAME:=ppo}"                    # label of the results
: "${EVAL:=1}"                      # 0: train only, no evaluation and no report
: "${EVAL_BASE:=$EVAL}"             # 0: do not evaluate the base
: "${EVAL_K:=96}"                   # samples per question, of the base and of the last checkpoint
: "${MAX_TOKENS:=128}" "${SEED:=0}" "${REASONRL:=reasonrl}" "${PLAN:=}"
export TASK MAX_TOKENS SEED REASONRL

evaluate() { # MODEL SAMPLES K
  EVAL_K=$3 "$(dirname "$0")/evaluate.sh" "$1" "$OUT/at$2" algorithm="$NAME" seed="$SEED" rollouts="$2"
}

[ "$PLAN" ] || mkdir -p "$OUT"
[ "$EVAL_BASE" = 0 ] || evaluate "$BASE" 0 "$EVAL_K"

# shellcheck disable=SC2086
$REASONRL ppo --task "$TASK" --model "$BASE" $(printf -- '--reward %s ' $REWARD) --samples "$SAMPLES" \
  --batch-size "$BATCH" --max-tokens "$MAX_TOKENS" --keep-every "$KEEP" --seed "$SEED" $PPO --resume -o "$OUT/policy"
[ "$EVAL" = 1 ] || exit 0
for update in $(seq "$KEEP" "$KEEP" $((SAMPLES / BATCH - 1))); do
  evaluate "$OUT/policy-$update" $((update * BATCH)) 8
done
evaluate "$OUT/policy" "$SAMPLES" "$EVAL_K"

$REASONRL report "$OUT"/at*.metrics.jsonl --x rollouts --title "$NAME on $TASK" --force -o "$OUT/report"
