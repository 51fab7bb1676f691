# What the recipes of the tables and figures share: presets, cells that are made once, plans. Sourced, not run.
#
#   PRESET=tiny SEEDS="0 1 2" recipes/table1.sh     everything goes to runs/tiny; a second call makes what is missing
#   JOBS=4 recipes/table1.sh                        four rows of a table at a time, with a log each
#   PRESET=llama2-7b PLAN=1 recipes/table1.sh       runs nothing, and says what every command would cost; takes flags of `plan`
#
# Each setting of a preset may be given in the environment instead: LIMIT=100 PPO_SAMPLES=2048 recipes/table1.sh
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
: "${PRESET:=tiny}" "${SEEDS:=0}" "${RUNS:=runs/$PRESET}" "${REASONRL:=reasonrl}" "${PLAN:=}"
[ -e "$here/presets/$PRESET.sh" ] || {
  echo "no preset $PRESET; there are: $(basename -s .sh "$here"/presets/*.sh | xargs)" >&2
  exit 2
}
# shellcheck source=/dev/null
. "$here/presets/$PRESET.sh"

case $PLAN in
  1) # shellcheck disable=SC2086
    PLAN=lines bash "$0" | $REASONRL plan - --device "$DEVICE" $ASSUME "$@" # of two --assume for one thing the last counts
    exit ;;
  lines) REASONRL="$here/say.sh" ;;
  *) if [ -n "$PREPARE" ]; then "$here/$PREPARE" "$BASE"; fi ;;
esac
export REASONRL PLAN
: "${EVAL_REWARD:=exact}" "${JOBS:=1}" "${ROW:=}" # ROW: this is one of the jobs of another call

# What there will be to report: greedy answers always, pass@k only of samples, and a vote or a best one only of several
table=(--metric maj@1) coverage=() ranked=exact
if [ "$EVAL_PASS_LIMIT" -gt 0 ]; then
  coverage=(--metric "pass@$EVAL_K")
  if [ "$EVAL_K" -gt 1 ]; then table+=(--metric "maj@$EVAL_K" --metric "rerank@$EVAL_K" "${coverage[@]}") ranked=orm; fi
  table+=(--metric pass@1)
fi
against=() # what the rows of a table are compared with: see cells

run() { [ -n "$PLAN" ] || echo "+ reasonrl $*" >&2; $REASONRL "$@"; }

# Making things once. How long each took is added to RUNS/seconds.tsv

once() { # MARK COMMAND…: runs COMMAND, unless the file MARK says that this very command was done
  local mark=$1 said began=${EPOCHREALTIME/[.,]/}
  shift
  if [ -n "$PLAN" ]; then
    case $planned in *"|$mark|"*) return ;; esac
    planned+="|$mark|"
    echo "# $mark"
    "$@"
    return
  fi
  said=$(printf '%s\n' "${@//"$here/"/}")
  if [ -e "$mark" ]; then
    diff <(echo "$said") "$mark" >&2 && return
    echo "$mark: made with other settings (<: asked for now); remove $(dirname "$mark"), or choose another RUNS" >&2
    exit 2
  fi
  "$@"
  printf '%s\t%d\n' "$mark" $(((${EPOCHREALTIME/[.,]/} - began) / 1000000)) >> "$RUNS/seconds.tsv"
  echo "$said" > "$mark.new" && mv "$mark.new" "$mark"
}
planned=

make() { # DIR RECIPE VARIABLE=VALUE…: what the recipe beside this trains with these settings, in DIR
  local dir=$1 recipe=$2
  shift 2
  [ -n "$PLAN" ] || mkdir -p "$dir"
  once "$dir/done" env OUT="$dir" SEED="$seed" TASK="$task" MAX_TOKENS="$MAX_TOKENS" EVAL=0 "$@" "$here/$recipe"
}

# Where cells start from. They set: task; at, the directory of this task, start and seed; start, the first policy; extra,
# records that Expert Iteration trains on besides its own; k, its samples per question; first, how the start is prompted

begin() { # TASK START
  task=$1 at=$RUNS/$1-$2/seed$seed first=
  [ -n "$PLAN" ] || mkdir -p "$at"
}

from_sft() { # TASK: SFT_EPOCHS epochs on the references
  begin "$1" sft
  supervised "$SFT_EPOCHS"
  start=$policy extra=$at/references.jsonl k=$K_SFT orm=$ORM_SFT
}

from_pretrained() { # TASK: the base, with SHOTS worked examples before the question
  begin "$1" pretrained
  start=$BASE extra='' k=$K_PRETRAINED orm=$ORM_PRETRAINED
  [ "$SHOTS" = 0 ] || exemplars
}

exemplars() { # a prompt with SHOTS worked examples, which every stage can use
  local file=$at/shots$SHOTS.txt # the number in the name: a mark knows the name only
  first="--prompt $file"
  [ -z "$PLAN" ] && [ ! -e "$file" ] || return 0
  run data "$task" --limit "$SHOTS" | jq -r '"Question: \(.question)\nAnswer:\n\(.reference)\n"' > "$file.new"
  printf 'Question: {question}\nAnswer:\n' >> "$file.new"
  mv "$file.new" "$file"
}

supervised() { # EPOCHS: $at/sftEPOCHS, fine-tuned on REFERENCES worked solutions
  once "$at/references.done" run data "$task" --limit "$REFERENCES" --resume -o "$at/references.jsonl"
  # shellcheck disable=SC2086
  once "$at/sft$1.done" run sft "$at/references.jsonl" --model "$BASE" --epochs "$1" $SFT --seed "$seed" --resume -o "$at/sft$1"
  policy=$at/sft$1
}

verifier() { # sets judge, which names it to a recipe: the one of the preset, or one that learns from samples of the start
  judge=(REASONRL_ORM="${orm:-$at/orm}")
  [ -z "$orm" ] || return 0
  # By another seed than Expert Iteration's, whose first round would else be the very samples that the verifier learnt from.
  # shellcheck disable=SC2086
  once "$at/orm.samples.done" run sample --task "$task" --limit "$ORM_LIMIT" --k "$ORM_K" --model "$start" $first \
    --max-tokens "$MAX_TOKENS" --seed "$((seed + 1000))" --resume -o "$at/orm.samples.jsonl"
  once "$at/orm.scored.done" run score "$at/orm.samples.jsonl" --resume -o "$at/orm.scored.jsonl"
  # shellcheck disable=SC2086
  once "$at/orm.done" run orm "$at/orm.scored.jsonl" --model "$BASE" $ORM --seed "$seed" --resume -o "$at/orm"
}

# Training. Each sets policy

train() { # CELL: trains what it needs and has not got yet
  case $1 in
    start)
      [ "$start" = "$BASE" ] || { echo "no cell start here: it is sft$SFT_EPOCHS" >&2 && exit 2; }
      policy=$start
      ;;
    sft*) supervised "${1#sft}" ;;
    ei | ei-orm) expert_iteration "$1" "$start" "$at/$1" ;;
    ppo*) proximal "$1" ;;
    rcrl) return_conditioned ;;
    *) echo "no cell $1" >&2 && exit 2 ;;
  esac
}

expert_iteration() { # ei|ei-orm START DIR: each round fine-tuned from the base
  local reward=exact judge=() given=() name
  if [ "$1" = ei-orm ]; then reward=orm && verifier; fi
  for name in TEMPERATURE MIN_REWARD; do # the recipe has its own values for these; what the environment has is part of the cell
    [ -z "${!name:-}" ] || given+=("$name=${!name}")
  done
  make "$3" expert_iteration.sh "${judge[@]}" BASE="$BASE" START="$2" EXTRA="$extra" REWARD="$reward" ROUNDS="$ROUNDS" K="$k" \
    LIMIT="$LIMIT" PER_QUESTION="$PER_QUESTION" FIRST="$first" SFT="$EI_SFT" "${given[@]}"
  policy=$3/round$ROUNDS
}

proximal() { # ppo|ppo-dense|ppo-orm
  local reward=${1#ppo} judge=()
  reward=${reward#-}
  [ "$reward" != orm ] || verifier
  make "$at/$1" ppo.sh "${judge[@]}" BASE="$start" REWARD="${reward:-exact}" SAMPLES="$PPO_SAMPLES" BATCH="$PPO_BATCH" \
    KEEP="$PPO_KEEP" PPO="--limit $LIMIT $first $PPO"
  policy=$at/$1/policy
}

return_conditioned() { # from samples of the last policy of Expert Iteration
  train ei
  # shellcheck disable=SC2086
  once "$at/rcrl.done" run rcrl --task "$task" --limit "$RCRL_LIMIT" --model "$policy" --base "$BASE" --max-tokens "$MAX_TOKENS" \
    $RCRL --seed "$seed" --resume -o "$at/rcrl"
  policy=$at/rcrl
}

# Evaluation, and what is reported

evaluate() { # POLICY LABEL=VALUE…: its metrics, with these labels, go into the report
  local samples=$1.eval flags= name record judge=()
  if [ "$1" = "$BASE" ]; then samples=$at/base.eval flags=$first; fi
  [ "$EVAL_REWARD" = exact ] || verifier
  name=$(tr -c '[:alnum:]-\n' _ <<< "${*:2}")
  record=$RUNS/$report/metrics/$task.$name.seed$seed.jsonl
  [ -n "$PLAN" ] || mkdir -p "$(dirname "$record")"
  once "${record%.jsonl}.done" env TASK="$task" SEED="$seed" METRICS="$record" EVAL_SAMPLE="$flags" MAX_TOKENS="$MAX_TOKENS" \
    EVAL_LIMIT="$EVAL_LIMIT" EVAL_PASS_LIMIT="$EVAL_PASS_LIMIT" EVAL_K="$EVAL_K" EVAL_TEMPERATURE="$EVAL_TEMPERATURE" \
    EVAL_REWARD="$EVAL_REWARD" "${judge[@]}" "$here/evaluate.sh" "$1" "$samples" "${@:2}" seed="$seed"
  records+=("$record")
}
records=()
report=$(basename "$0" .sh)

cell() { # CELL: a row of a table
  local title EVAL_REWARD=$ranked
  case $1 in
    start) title=prompted ;;
    ei-orm) title=ORM-EI ;;
    ppo) title="PPO sparse" ;;
    ppo-orm) title="PPO ORM" ;;
    ppo-*) title="PPO ${1#ppo-}" ;;
    *) title=${1^^} ;;
  esac
  train "$1"
  evaluate "$policy" cell="$title"
}

cells() { # CELL…: the rows of this seed, or those of CELLS
  local rows=${CELLS:-$*} name jobs=() judge
  if [ -n "$ROW" ]; then own_log "$rows"; fi
  for name in $rows; do # RCRL starts from Expert Iteration's last policy: one job makes both
    case $name in
      ei) [[ " $rows " != *" rcrl "* ]] || name="ei rcrl" ;;
      rcrl) [[ " $rows " != *" ei "* ]] || continue ;;
    esac
    jobs+=("$name")
  done
  if [ -z "$ROW$PLAN" ] && [ "$JOBS" -gt 1 ] && [ ${#jobs[@]} -gt 1 ]; then
    if [[ $ranked == orm || $rows == *orm* ]]; then verifier; fi # the rows share it
    printf '%s\n' "${jobs[@]}" | xargs -P "$JOBS" -I{} env ROW=1 SEEDS="$seed" CELLS={} OMP_NUM_THREADS="$(threads)" bash "$0" || {
      echo "a row has failed; the same line goes on where the rows stopped" >&2
      exit 1
    }
  fi
  [[ " $rows " != *" ei "* ]] || against+=(--against cell=EI)
  [[ " $rows " != *" ppo "* ]] || against+=(--against "cell=PPO sparse")
  for name in $rows; do cell "$name"; done # after jobs nothing is left to make, and this collects the records
}

own_log() { # CELL…: what this job says goes to a log, but for where that is and how it ended
  local log=$at/${1%% *}.log
  row="seed $seed, $1" seen=$log # global, for the trap
  echo "$row: $log" >&2
  exec 3>&2 >> "$log" 2>&1
  trap '[ $? = 0 ] && echo "$row: done" >&3 || echo "$row: failed: $(tail -n 1 "$seen") ($seen)" >&3' EXIT
}

threads() { # of each job, where the environment does not say: small models gain more from a second job than from a second thread
  local share=$(($(getconf _NPROCESSORS_ONLN) / JOBS))
  echo "${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}"
}

finish() { # TITLE FLAGS…: tables and plots from the records of metrics, and from nothing else
  [ -z "$ROW" ] || return 0
  run report "${records[@]}" --title "$1, preset $PRESET" "${@:2}" --force -o "$RUNS/$report"
}
