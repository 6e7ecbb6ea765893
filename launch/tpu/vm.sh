#!/usr/bin/env bash
# A Cloud TPU VM from start to end: create it, install dsi-jax on it, run a card, fetch the results, delete it.
#
#   bash launch/tpu/vm.sh all --dry_run                       print every command, run none
#   PROJECT=my-project bash launch/tpu/vm.sh all              all five steps; docs/tpu_vm.md has more examples
#   PROJECT=my-project bash launch/tpu/vm.sh create           one step: create, install, run, fetch, delete, or shell
#
# A TPU VM COSTS MONEY from `create` to `delete`, whether it works or idles. If a step fails, the VM stays, so that its
# results can be fetched; the last lines then say how to delete it.
#
# Written from Google's documentation, and never run on a real TPU: see docs/tpu_vm.md.
set -euo pipefail

# ------------------------------------------------------------------ variables; each can be set in the environment
PROJECT=${PROJECT:-}                              # your Google Cloud project; needed
ZONE=${ZONE:-us-central1-a}                       # where you have quota for ACCELERATOR
NAME=${NAME:-dsi-jax}                             # of the VM
ACCELERATOR=${ACCELERATOR:-v5litepod-8}           # v4-8 | v5litepod-8 | v5p-8 | v6e-8; one host, the number after v4
                                                  # and v5p counts cores, two a chip
VERSION=${VERSION:-}                              # of the VM's software; default the one for ACCELERATOR
SPOT=${SPOT:-}                                    # yes: cheaper, and may be taken away at any time
CARD=${CARD:-configs/two_directories.py}          # experiment card
OUT=${OUT:-out/tpu}                               # results, here and there
RUN=${RUN:-launch/generate.py --config=$CARD --algorithm=all --out=$OUT}   # any launcher with its flags
LIMIT=${LIMIT:-3600}                              # seconds that RUN may take at most
PYTHON=${PYTHON:-3.12}                            # the VM's own is too old, so uv fetches this one

here=$(cd "$(dirname "$0")/../.." && pwd)
archive=${TMPDIR:-/tmp}/dsi-jax-$$.tar.gz
dry_run=
step=

main() {
  read_arguments "$@"
  check
  trap remind EXIT
  if [[ $step == all ]]; then
    for each in create install run fetch delete; do "$each"; done
  else
    "$step"
  fi
}

# -------------------------------------------------------------------------------------------------------- the steps
create() {
  echo "creating $NAME ($ACCELERATOR) in $ZONE; it costs money until it is deleted" >&2
  call gcloud compute tpus tpu-vm create "$NAME" "${place[@]}" \
    --accelerator-type="$ACCELERATOR" --version="$VERSION" ${SPOT:+--spot}
}

install() { # what is committed here goes there
  call git -C "$here" archive --format=tar.gz --output="$archive" HEAD
  call gcloud compute tpus tpu-vm scp "$archive" "$NAME:dsi-jax.tar.gz" "${place[@]}"
  remote "set -e
    mkdir -p dsi-jax && tar -xzf dsi-jax.tar.gz -C dsi-jax && cd dsi-jax
    python3 -m pip install --quiet --user uv
    ~/.local/bin/uv venv --quiet --allow-existing --python $PYTHON .venv
    ~/.local/bin/uv pip install --quiet --python .venv/bin/python -e '.[plots,tpu]' huggingface_hub
    .venv/bin/python -c 'import jax; print(jax.devices())'"
}

run() {
  remote "cd dsi-jax && timeout $LIMIT .venv/bin/python $RUN"
}

fetch() {
  call mkdir -p "$(dirname "$OUT")"
  call gcloud compute tpus tpu-vm scp --recurse "$NAME:dsi-jax/$OUT" "$(dirname "$OUT")" "${place[@]}"
}

delete() {
  call gcloud compute tpus tpu-vm delete "$NAME" "${place[@]}" --quiet
  deleted=yes
}

shell() { # to look around, or to log in where a model asks for it: dsi-jax/.venv/bin/hf auth login
  call gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}"
}

# ------------------------------------------------------------------------------------------------ what they are made of
remote() {
  call gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --command="$1"
}

call() { # says a command, and runs it unless --dry_run
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  [[ -n $dry_run ]] || "$@"
}

remind() { # whatever happened, and Ctrl-C too
  local code=$?
  trap - EXIT
  rm -f "$archive"
  [[ $code == 0 ]] || echo "failed (exit code $code)" >&2
  if [[ -z ${deleted:-}$dry_run ]]; then
    echo "$NAME may still be running, and COSTS MONEY until you delete it:" >&2
    echo "  gcloud compute tpus tpu-vm delete $NAME ${place[*]} --quiet" >&2
  fi
  exit "$code"
}

read_arguments() {
  local argument
  for argument in "$@"; do
    case $argument in
      --dry_run) dry_run=yes ;;
      create | install | run | fetch | delete | shell | all) step=$argument ;;
      *) stop "unknown argument '$argument'; known are create, install, run, fetch, delete, shell, all and --dry_run" ;;
    esac
  done
  [[ -n $step ]] || stop "say which step: create, install, run, fetch, delete, shell or all"
}

check() {
  case ${VERSION:-$ACCELERATOR} in # as Google's page "TPU software versions" lists them
    v4-*) VERSION=tpu-ubuntu2204-base ;;
    v5litepod-*) VERSION=v2-alpha-tpuv5-lite ;;
    v5p-*) VERSION=v2-alpha-tpuv5 ;;
    v6e-*) VERSION=v2-alpha-tpuv6e ;;
    "$ACCELERATOR") stop "ACCELERATOR=$ACCELERATOR is not known (v4-8, v5litepod-8, v5p-8, v6e-8); set VERSION as well" ;;
  esac
  if [[ -n $dry_run ]]; then
    PROJECT=${PROJECT:-PROJECT}
  else
    [[ -n $PROJECT ]] || stop "PROJECT is not set; set it to your Google Cloud project"
    command -v gcloud > /dev/null || stop "gcloud is not installed; Google's page 'Install the gcloud CLI' says how"
  fi
  place=(--project="$PROJECT" --zone="$ZONE")
}

stop() {
  echo "error: $1" >&2
  exit 2
}

main "$@"
