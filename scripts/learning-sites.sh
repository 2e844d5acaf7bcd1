# The sites of scripts/learning-runs, scripts/compare-with-pytorch-forecasting and scripts/default-runs, which source this
# file: one way to cut each data set into a window, and one recipe to train on it (docs/learning.md). Not a program of
# its own.

say() { echo "${0##*/}: $*" >&2; }
die() { say "$*"; exit 2; }

# Settings travel as TFTCTL_* variables, which beat the config file; those of the caller must not leak in.
forget_settings() {
  local name
  for name in ${!TFTCTL_@}; do unset "$name"; done
}

# What is not set here is what `init --from` derives (metrics, targets, cadence) or a default.
settings() {
  forget_settings
  export TFTCTL_MODEL__HIDDEN_SIZE=16 TFTCTL_MODEL__HIDDEN_CONTINUOUS_SIZE=8 TFTCTL_MODEL__ATTENTION_HEADS=4
  export TFTCTL_TRAINING__LEARNING_RATE=0.005
  export TFTCTL_VALIDATION__MAX_SAMPLES=0 # the exam is every sample of the holdout
  case $1 in
    asd) # 96 steps of 15 minutes back, 32 ahead; the last of five weeks is the exam
      epochs=5
      export TFTCTL_NOW=2024-02-15T00:00 TFTCTL_TRAINING_WINDOW_DAYS=35 TFTCTL_WINDOW__HOLDOUT_HOURS=168
      export TFTCTL_SERIES__STEP_SECS=900 TFTCTL_MODEL__ENCODER_LENGTH=96 TFTCTL_MODEL__HORIZON=32
      ;;
    smd) # 48 steps of 30 minutes back, 16 ahead; the last five of 32 days are the exam (its first horizon included)
      epochs=6
      export TFTCTL_NOW=2024-02-02T00:00 TFTCTL_TRAINING_WINDOW_DAYS=32 TFTCTL_WINDOW__HOLDOUT_HOURS=112
      export TFTCTL_SERIES__STEP_SECS=1800 TFTCTL_MODEL__ENCODER_LENGTH=48 TFTCTL_MODEL__HORIZON=16
      export TFTCTL_TRAINING__BATCH_SIZE=32 # many more optimizer steps for the same samples
      ;;
  esac
}

# Sets names, data, out and seeds from the arguments [asd|smd|all] [DATA_DIR] [OUT_DIR] of the script that sources this;
# $1 is the OUT_DIR of one who names none.
arguments() {
  local default_out=$1 name
  shift
  case ${1:-all} in
    asd | smd) names=$1 ;;
    all) names="asd smd" ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
  esac
  data=${2:-$here/../../shared/data} out=${3:-$default_out} seeds=${SEEDS:-42 43 44}
  for name in $names; do
    [ -d "$data/$name" ] || die "there is no folder $data/$name: name the folder that holds it"
  done
  mkdir -p "$out"
  data=$(cd "$data" && pwd) out=$(cd "$out" && pwd)
}

# Sets tftctl: the program that TFTCTL names, or one that is built now.
program() {
  tftctl=${TFTCTL:-}
  [ -z "$tftctl" ] || return 0
  "$here/setup"
  (cd "$here/.." && cargo build --release --locked)
  tftctl=${CARGO_TARGET_DIR:-$here/../target}/release/tftctl
}

# Makes the site $out/$1 with its window; leaves window.json in it.
make_site() {
  local name=$1 site=$out/$1
  say "$name: making the site"
  "$tftctl" --quiet init --from "$data/$name" "$site" >/dev/null
  "$tftctl" --quiet --config "$site" --json window build >"$site/window.json"
}

# Examines a model of the site $1 with the arguments that follow; the verdict goes to standard output. Exit code 3 is a
# verdict like any other: the tables tell what the model did not beat.
examine() {
  local site=$1 code=0
  shift
  "$tftctl" --quiet --config "$site" --json validate "$@" || code=$?
  [ "$code" = 0 ] || [ "$code" = 3 ] || die "the exam in $site failed with exit code $code: validate $*"
}
