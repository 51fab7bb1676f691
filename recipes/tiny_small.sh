#!/usr/bin/env bash
# A model like `tiny` of half its width, as recipes/tiny.sh makes it: recipes/tiny_small.sh BASE; nothing for `tiny` itself.
set -euo pipefail

[ "$1" = tiny ] || HIDDEN=64 "$(dirname "$0")/tiny.sh" "$(dirname "$1")"
