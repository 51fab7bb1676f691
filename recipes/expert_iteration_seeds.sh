#!/usr/bin/env bash
# Expert Iteration on the embedded default over three seeds: the table and plots of docs/results/expert-iteration-mini/.
set -euo pipefail

: "${OUT:=runs/expert-iteration-mini}" "${SEEDS:=0 1 2}" "${REASONRL:=reasonrl}"
export REASONRL

for seed in $SEEDS; do
  OUT="$OUT/seed$seed" SEED="$seed" "$(dirname "$0")/expert_iteration.sh"
done
$REASONRL report "$OUT"/seed*/round*.metrics.jsonl --title "Expert Iteration on mini, $(wc -w <<<"$SEEDS") seeds" --force -o "$OUT/report"
