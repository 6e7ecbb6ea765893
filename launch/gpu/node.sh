#!/usr/bin/env bash
# One machine with eight GPUs that you reach by ssh: install dsi-jax on it, run a card, fetch the results.
#
#   NODE=me@node bash launch/gpu/node.sh all --dry_run        print every command, run none
#   NODE=me@node bash launch/gpu/node.sh all                  all three steps
#   NODE=me@node bash launch/gpu/node.sh run                  one step: install, run, fetch
#
# On a cluster with Slurm, launch/gpu/node.sbatch does the `run` step. A rented node costs money until you give it back.
# Never run on a real node: see docs/tpu_vm.md.
set -euo pipefail

# ------------------------------------------------------------------ variables; each can be set in the environment
NODE=${NODE:-}                                    # as ssh takes it: user@host; needed
CARD=${CARD:-configs/two_directories.py}          # experiment card
OUT=${OUT:-out/gpu}                               # results, here and there
RUN=${RUN:-launch/generate.py --config=$CARD --algorithm=all --out=$OUT}   # any launcher with its flags
LIMIT=${LIMIT:-3600}                              # seconds that RUN may take at most
PYTHON=${PYTHON:-3.12}                            # fetched by uv, whatever the node has

here=$(cd "$(dirname "$0")/../.." && pwd)
archive=${TMPDIR:-/tmp}/dsi-jax-$$.tar.gz
dry_run=
step=

main() {
  read_arguments "$@"
  trap remind EXIT
  if [[ $step == all ]]; then
    for each in install run fetch; do "$each"; done
  else
    "$step"
  fi
}

# -------------------------------------------------------------------------------------------------------- the steps
install() { # what is committed here goes there
  call git -C "$here" archive --format=tar.gz --output="$archive" HEAD
  call scp "$archive" "$NODE:dsi-jax.tar.gz"
  call ssh "$NODE" "set -e
    mkdir -p dsi-jax && tar -xzf dsi-jax.tar.gz -C dsi-jax && cd dsi-jax
    nvidia-smi --query-gpu=name,memory.total --format=csv
    python3 -m pip install --quiet --user uv
    ~/.local/bin/uv venv --quiet --allow-existing --python $PYTHON .venv
    ~/.local/bin/uv pip install --quiet --python .venv/bin/python -e '.[plots,gpu]' huggingface_hub
    .venv/bin/python -c 'import jax; print(jax.devices())'"
}

run() { # jax takes three quarters of a GPU's memory unless it is told how much
  call ssh "$NODE" "cd dsi-jax && XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 timeout $LIMIT .venv/bin/python $RUN"
}

fetch() {
  call mkdir -p "$(dirname "$OUT")"
  call scp -r "$NODE:dsi-jax/$OUT" "$(dirname "$OUT")"
}

# ------------------------------------------------------------------------------------------------ what they are made of
call() { # says a command, and runs it unless --dry_run
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  [[ -n $dry_run ]] || "$@"
}

remind() {
  local code=$?
  trap - EXIT
  rm -f "$archive"
  [[ $code == 0 ]] || echo "failed (exit code $code)" >&2
  echo "if $NODE is rented, it costs money until you give it back" >&2
  exit "$code"
}

read_arguments() {
  local argument
  for argument in "$@"; do
    case $argument in
      --dry_run) dry_run=yes ;;
      install | run | fetch | all) step=$argument ;;
      *) stop "unknown argument '$argument'; known are install, run, fetch, all and --dry_run" ;;
    esac
  done
  [[ -n $step ]] || stop "say which step: install, run, fetch or all"
  [[ -n $NODE || -n $dry_run ]] || stop "NODE is not set; set it to user@host"
  NODE=${NODE:-NODE}
}

stop() {
  echo "error: $1" >&2
  exit 2
}

main "$@"
