# shellcheck shell=bash disable=SC2034
# As llama2-7b, with the larger model: 26 GB in bf16, so LoRA and vLLM still fit one 80 GB GPU.
: "${BASE:=meta-llama/Llama-2-13b-hf}" # paper; gated on the hub
# shellcheck source=/dev/null
. "$here/presets/llama2-7b.sh"
