#!/usr/bin/env bash
# Accuracy against the number of parameters: each base of MODEL_SIZES, and Expert Iteration from it.
. "$(dirname "$0")/cells.sh"

[ "$(wc -w <<< "$MODEL_SIZES")" -gt 1 ] ||
  echo "figure_model_size: preset $PRESET has one size; to compare two, name them: MODEL_SIZES='PARAMETERS=BASE PARAMETERS=BASE'" >&2

for seed in $SEEDS; do
  for size in $MODEL_SIZES; do # PARAMETERS=BASE
    parameters=${size%%=*} BASE=${size#*=}
    if [ -z "$PLAN" ] && [ -n "$PREPARE_SIZE" ]; then "$here/$PREPARE_SIZE" "$BASE"; fi
    RUNS=$RUNS/size-$parameters from_pretrained "$TASK"
    train ei
    evaluate "$start" algorithm=pretrained parameters="$parameters"
    evaluate "$policy" algorithm=EI parameters="$parameters"
  done
done
finish "Model size: $TASK from the pretrained model" --x parameters --metric maj@1 "${coverage[@]}"
