#!/usr/bin/env bash
# Table 1: every algorithm from a supervised start. CELLS="sft2 ei" makes some rows only; see cells.sh for the rest.
. "$(dirname "$0")/cells.sh"

for seed in $SEEDS; do
  from_sft "$TASK"
  cells sft$SFT_EPOCHS sft$SFT_LONG ei ei-orm ppo ppo-dense ppo-orm rcrl
done
finish "Table 1: $TASK from an SFT start" "${table[@]}" "${against[@]}"
