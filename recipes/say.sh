#!/usr/bin/env bash
# What stands for `reasonrl` where a recipe only says its commands: REASONRL=recipes/say.sh prints each as a line of shell.
[ -z "${REASONRL_ORM:-}" ] || printf 'REASONRL_ORM=%q ' "$REASONRL_ORM"
printf 'reasonrl'
printf ' %q' "$@"
echo
