#!/usr/bin/env bash
# Table 3: table 1's rows on SVAMP. CELLS="sft2 ei" makes some rows only; see cells.sh for the rest.
. "$(dirname "$0")/cells.sh"

for seed in $SEEDS; do
  from_sft svamp
  cells sft$SFT_EPOCHS sft$SFT_LONG ei ei-orm ppo ppo-dense ppo-orm rcrl
done
finish "Table 3: svamp from an SFT start" "${table[@]}" "${against[@]}"
