#!/usr/bin/env bash
# maj@1 and pass@K against epochs of supervised fine-tuning, and where Expert Iteration gets from there.
. "$(dirname "$0")/cells.sh"

for seed in $SEEDS; do
  from_sft "$TASK"
  for epochs in $SFT_SWEEP; do
    supervised "$epochs"
    from=$policy
    evaluate "$from" algorithm=SFT epochs="$epochs"
    to=$at/ei
    [ "$from" = "$start" ] || to=$at/ei-from-sft$epochs
    expert_iteration ei "$from" "$to"
    evaluate "$policy" algorithm="SFT, then EI" epochs="$epochs"
  done
done
finish "Epochs of SFT, and Expert Iteration from there: $TASK" --x epochs --metric maj@1 "${coverage[@]}"
