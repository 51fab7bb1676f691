#!/usr/bin/env bash
# Table 2: every algorithm from the pretrained model. CELLS="start ei" makes some rows only; see cells.sh for the rest.
. "$(dirname "$0")/cells.sh"

for seed in $SEEDS; do
  from_pretrained "$TASK"
  cells start ei ei-orm ppo ppo-dense ppo-orm
done
finish "Table 2: $TASK from the pretrained model" "${table[@]}" "${against[@]}"
