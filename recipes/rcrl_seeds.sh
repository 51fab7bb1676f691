#!/usr/bin/env bash
# Return-conditioned RL on the embedded default over three seeds: a table in $OUT/report. BESIDE names files of metrics
# records to set beside it: of each algorithm and seed, the last round, but for "ei", which is evaluated here. POLICY names
# policies that are there already, SEED in it standing for the seed: POLICY=runs/expert-iteration-mini/seedSEED/round2.
set -euo pipefail

: "${OUT:=runs/rcrl-mini}" "${SEEDS:=0 1 2}" "${REASONRL:=reasonrl}" "${POLICY:=}"
: "${BESIDE:=$(dirname "$0")/../docs/results/ppo-mini/metrics.jsonl}"
: "${LIMIT:=4000}" "${K:=4}" "${RCRL:=--labels tokens --epochs 12 --lr 4e-3}" # chosen on training questions
export REASONRL LIMIT K RCRL

for seed in $SEEDS; do
  # The base is the same for all seeds.
  OUT="$OUT/seed$seed" SEED="$seed" POLICY="${POLICY//SEED/$seed}" EVAL_BASE="$([ "$seed" = "${SEEDS%% *}" ] && echo 1 || echo 0)" \
    "$(dirname "$0")/rcrl.sh"
done
beside="$OUT/beside.metrics.jsonl"
# shellcheck disable=SC2086
jq -cs 'map(select(.algorithm != "ei")) | group_by(.algorithm, .seed)[] | max_by(.round // .rollouts // 0) | del(.round, .rollouts)' $BESIDE > "$beside"
$REASONRL report "$OUT"/seed*/*.metrics.jsonl "$beside" --title "Return-conditioned RL on mini, $(wc -w <<<"$SEEDS") seeds" \
  --force -o "$OUT/report"
