#!/usr/bin/env bash
# PPO on the embedded default over three seeds, with three rewards and three kinds of advantages: the table and plots of
# docs/results/ppo-mini/. EI names the metrics of Expert Iteration to set beside them.
set -euo pipefail

: "${OUT:=runs/ppo-mini}" "${SEEDS:=0 1 2}" "${VARIANTS:=ppo ppo-dense ppo-orm grpo rloo}" "${REASONRL:=reasonrl}"
: "${EI:=$(dirname "$0")/../docs/results/expert-iteration-mini/metrics.jsonl}" "${EI_ROLLOUTS:=24000}"
export REASONRL

for variant in $VARIANTS; do
  for seed in $SEEDS; do
    reward=exact flags=() base=0
    case $variant in
      ppo) [ "$seed" != "${SEEDS%% *}" ] || base=1 ;;  # it is the same for all
      ppo-*) reward=${variant#ppo-} ;;
      *) flags=(--advantage "$variant") ;;
    esac
    OUT="$OUT/$variant-$seed" NAME="$variant" REWARD="$reward" PPO="${flags[*]} ${PPO:-}" EVAL_BASE=$base SEED="$seed" \
      "$(dirname "$0")/ppo.sh"
  done
done
beside="$OUT/expert-iteration.metrics.jsonl"
jq -c --argjson a_round "$EI_ROLLOUTS" '.rollouts = .round * $a_round | del(.round)' "$EI" > "$beside"
$REASONRL report "$OUT"/*/at*.metrics.jsonl "$beside" --x rollouts --title "PPO on mini, $(wc -w <<<"$SEEDS") seeds" \
  --force -o "$OUT/report"
