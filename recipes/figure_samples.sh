#!/usr/bin/env bash
# Accuracy against the number of samples drawn, Expert Iteration beside PPO, from the supervised start (table 1's runs).
. "$(dirname "$0")/cells.sh"
export EVAL_PASS_LIMIT=0

for seed in $SEEDS; do
  from_sft "$TASK"
  train ei
  train ppo
  evaluate "$start" algorithm=EI rollouts=0
  evaluate "$start" algorithm=PPO rollouts=0
  for round in $(seq "$ROUNDS"); do
    evaluate "$at/ei/round$round" algorithm=EI rollouts=$((round * LIMIT * k))
  done
  for update in $(seq "$PPO_KEEP" "$PPO_KEEP" $((PPO_SAMPLES / PPO_BATCH - 1))); do
    evaluate "$at/ppo/policy-$update" algorithm=PPO rollouts=$((update * PPO_BATCH))
  done
  evaluate "$at/ppo/policy" algorithm=PPO rollouts="$PPO_SAMPLES"
done
finish "Accuracy against samples drawn: $TASK" --x rollouts --metric maj@1
