# shellcheck shell=bash disable=SC2034
# The embedded default on two cores: table 1 in 49 minutes (docs/results/plan.md), table 2 in 29. Sources: tried here
# unless another is named.
: "${DEVICE:=cpu2}"                 # what `plan` reckons with
: "${JOBS:=$(getconf _NPROCESSORS_ONLN)}" # rows of a table at a time, a core each
: "${TASK:=mini}"                   # of tables 1 and 2 and the figures; table 3 is always svamp
: "${BASE:=tiny}"
: "${PREPARE:=}"                    # a recipe beside this that makes BASE
: "${MAX_TOKENS:=128}"              # the longest reference of mini has 74
: "${SHOTS:=0}"                     # tiny was pretrained on the very prompt

# Supervised fine-tuning: fewer worked solutions than there are questions, so that something is left for RL to find
: "${REFERENCES:=500}"
: "${SFT_EPOCHS:=2}" "${SFT_LONG:=4}" # the paper's SFT2 and SFT4; RL starts from the first
: "${SFT_SWEEP:=1 2 4 8}"
: "${SFT:=}"                        # the stage's own preset

# Questions, samples and rounds of RL
: "${LIMIT:=3000}"
: "${K_SFT:=4}"                     # the paper's, from an SFT checkpoint
: "${K_PRETRAINED:=8}"              # the paper's 96 would take twelve times as long; tiny finds a right solution in 8 for most questions
: "${ROUNDS:=2}"                    # the paper's peak
: "${PER_QUESTION:=4}"
: "${EI_SFT:=}"
: "${ORM_SFT=tiny-orm}"             # the bundled one; ORM_SFT='': made by the recipe from ORM_LIMIT × ORM_K samples, and worse (docs/tables.md)
: "${ORM_PRETRAINED=tiny-orm}"      # it knows tiny's samples
: "${ORM_LIMIT:=3000}" "${ORM_K:=8}"
: "${ORM:=--held-out 0.05}"
: "${PPO_SAMPLES:=24576}" "${PPO_BATCH:=512}" "${PPO_KEEP:=16}" # as in recipes/ppo.sh
: "${PPO:=}"                        # the stage's own preset
: "${RCRL_LIMIT:=2000}" "${RCRL:=--k 4 --labels tokens --epochs 12 --lr 4e-3}" # docs/results/rcrl-mini.md, with half the questions

# Evaluation on the test split
: "${EVAL_LIMIT:=1000}" "${EVAL_PASS_LIMIT:=300}"
: "${EVAL_K:=96}" "${EVAL_TEMPERATURE:=0.7}" # the paper's

# Two sizes of the same kind of model, pretrained alike
: "${MODEL_SIZES:=241984=$RUNS/tiny-small/tiny 672384=tiny}"
: "${PREPARE_SIZE:=tiny_small.sh}"
: "${ASSUME:=--assume keep=0.2 --assume start_keep=0.082 --assume again=0.5 --assume prefixes=2.2 --assume rest=0.39 --assume learnt=0.78}" # for `plan` (docs/plan.md): what was measured on this preset
