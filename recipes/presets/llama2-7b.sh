# shellcheck shell=bash disable=SC2034
# The paper's own size on one 80 GB GPU, LoRA for what is trained, vLLM (the `vllm` extra) for what is sampled. "Paper": Havrilla
# et al. 2024; "recalled": a default believed to be the paper's and not read again. Never run by this project: plan it first.
: "${DEVICE:=h100}"                 # what `plan` reckons with
: "${TASK:=gsm8k}"                  # paper
: "${BASE:=meta-llama/Llama-2-7b-hf}" # paper; gated on the hub
: "${PREPARE:=}"
: "${MAX_TOKENS:=256}"              # GSM8K's references end before
: "${SHOTS:=4}"                     # of the pretrained start; the paper prompts it too, with how many examples is not known here

# Supervised fine-tuning: the stage's defaults are the paper's (batches of 128, cosine to a hundredth); LoRA takes ten times the rate
: "${REFERENCES:=7473}"             # paper: the whole training split
: "${SFT_EPOCHS:=2}" "${SFT_LONG:=4}" # paper: SFT2 and SFT4
: "${SFT_SWEEP:=1 2 4 8}"
: "${SFT:=--lora-rank 64 --lr 2e-4 --gradient-checkpointing}"

: "${LIMIT:=7473}"                  # paper
: "${K_SFT:=4}" "${K_PRETRAINED:=96}" # paper
: "${ROUNDS:=4}"                    # paper: four to five; the best is about the second
: "${PER_QUESTION:=8}"              # so that K = 96 does not drown the hard questions
: "${EI_SFT:=--epochs 2 $SFT}"
: "${ORM_SFT:=}" "${ORM_PRETRAINED:=}"
: "${ORM_LIMIT:=7473}" "${ORM_K:=8}" # paper: K samples per question of the student; which K is not known here
: "${ORM:=--epochs 1 --lora-rank 64 --lr 2e-4 --gradient-checkpointing}"
: "${PPO_SAMPLES:=100352}" "${PPO_BATCH:=512}" "${PPO_KEEP:=49}" # paper: converges within 10⁵ to 10⁶ samples
: "${PPO:=--lora-rank 64 --lr 3e-5 --gradient-checkpointing}" # KL 0.05 is the stage's default and the paper's
: "${RCRL_LIMIT:=$LIMIT}" "${RCRL:=$EI_SFT}"

: "${EVAL_LIMIT:=1319}" "${EVAL_PASS_LIMIT:=1319}" "${EVAL_K:=96}" # paper
: "${EVAL_TEMPERATURE:=0.7}"        # recalled
: "${MODEL_SIZES:=6738415616=meta-llama/Llama-2-7b-hf 13015864320=meta-llama/Llama-2-13b-hf}" # paper
: "${PREPARE_SIZE:=}"
: "${ASSUME:=--assume keep=0.3 --assume again=0.5 --assume exemplars=$SHOTS}" # for `plan`: guesses
