#!/usr/bin/env bash
# Different solutions per question, of EVAL_K samples, over the rounds of Expert Iteration, from both starts.
. "$(dirname "$0")/cells.sh"

if [ "$EVAL_PASS_LIMIT" = 0 ]; then
  echo "figure_diversity counts different solutions among samples: EVAL_PASS_LIMIT must be above 0" >&2
  exit 2
fi

rounds() { # NAME: the start and every round
  train ei
  evaluate "$start" start="$1" round=0
  for round in $(seq "$ROUNDS"); do evaluate "$at/ei/round$round" start="$1" round="$round"; done
}

for seed in $SEEDS; do
  from_sft "$TASK"
  rounds SFT
  from_pretrained "$TASK"
  rounds pretrained
done
finish "Different solutions over rounds: $TASK" \
  --metric unique_solutions --metric unique_correct --metric maj@1 "${coverage[@]}"
