#!/usr/bin/env bash
# A TPU slice of several hosts, with Ray over them: create it, install dsi-jax on every host, start Ray, run a card, fetch
# the results, delete it.
#
#   bash launch/cluster/slice.sh all --dry_run                print every command, run none
#   PROJECT=my-project bash launch/cluster/slice.sh all       all six steps; docs/pods.md has more examples
#   PROJECT=my-project bash launch/cluster/slice.sh start     one step: create, install, start, run, fetch, stop, delete
#                                                             or shell
#
# A SLICE COSTS MONEY from `create` to `delete`, whether it works or idles. If a step fails, the slice stays, so that its
# results can be fetched; the last lines then say how to delete it.
#
# Every server is an actor of Ray on one host, so no program spans hosts: each host is told that it is alone.
# Written from the documentation of Google and Ray, and never run on a real slice: see docs/pods.md.
set -euo pipefail

# ------------------------------------------------------------------ variables; each can be set in the environment
PROJECT=${PROJECT:-}                              # your Google Cloud project; needed
ZONE=${ZONE:-us-central1-a}                       # where you have quota for ACCELERATOR
NAME=${NAME:-dsi-jax-slice}                       # of the slice
ACCELERATOR=${ACCELERATOR:-v5litepod-16}          # hosts of four chips each; the number after v4 and v5p counts cores
VERSION=${VERSION:-}                              # of the hosts' software; default the one for ACCELERATOR
SPOT=${SPOT:-}                                    # yes: cheaper, and may be taken away at any time
CARD=${CARD:-configs/llama3_8b.py:v5e-8}          # experiment card
OUT=${OUT:-out/slice}                             # results, on the first host and here
# any launcher with its flags; target servers of four chips, one on each host but the drafter's
RUN=${RUN:-launch/generate.py --config=$CARD --set=mesh.target_tp=4 --backend=ray --address=auto --out=$OUT}
LIMIT=${LIMIT:-3600}                              # seconds that RUN may take at most
PORT=${PORT:-6379}                                # of Ray on the first host
PYTHON=${PYTHON:-3.12}                            # the hosts' own is too old, so uv fetches this one

here=$(cd "$(dirname "$0")/../.." && pwd)
archive=${TMPDIR:-/tmp}/dsi-jax-$$.tar.gz
token=${TMPDIR:-/tmp}/dsi-jax-$$.token            # hosts join with it; it goes by ssh, and no command shows it
with_token="RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=token"
alone="TPU_HOST_BOUNDS=1,1,1 TPU_CHIPS_PER_HOST_BOUNDS=2,2,1"   # or the TPU's library waits for the other hosts
dry_run=
step=

main() {
  read_arguments "$@"
  check
  trap remind EXIT
  if [[ $step == all ]]; then
    for each in create install start run fetch delete; do "$each"; done
  else
    "$step"
  fi
}

# -------------------------------------------------------------------------------------------------------- the steps
create() {
  echo "creating $NAME ($ACCELERATOR, $hosts hosts) in $ZONE; it costs money until it is deleted" >&2
  call gcloud compute tpus tpu-vm create "$NAME" "${place[@]}" \
    --accelerator-type="$ACCELERATOR" --version="$VERSION" ${SPOT:+--spot}
}

install() { # what is committed here goes to every host
  call git -C "$here" archive --format=tar.gz --output="$archive" HEAD
  call gcloud compute tpus tpu-vm scp "$archive" "$NAME:dsi-jax.tar.gz" "${place[@]}" --worker=all
  remote all "set -e
    mkdir -p dsi-jax && tar -xzf dsi-jax.tar.gz -C dsi-jax && cd dsi-jax
    python3 -m pip install --quiet --user uv
    ~/.local/bin/uv venv --quiet --allow-existing --python $PYTHON .venv
    ~/.local/bin/uv pip install --quiet --python .venv/bin/python -e '.[plots,ray,tpu]' huggingface_hub"
}

start() { # the first host, whose name ends in -w-0, and then the others
  [[ -n $dry_run ]] || (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$token")
  call gcloud compute tpus tpu-vm scp "$token" "$NAME:dsi-jax/token" "${place[@]}" --worker=all
  local ray="$with_token $alone .venv/bin/ray start --disable-usage-stats"
  remote 0 "cd dsi-jax && $ray --head --port=$PORT --include-dashboard=false"
  # shellcheck disable=SC2016  # to be expanded on the hosts
  remote all 'first=$(hostname | sed "s/-w-[0-9]*$/-w-0/") && cd dsi-jax &&
    if [ "$(hostname)" != "$first" ]; then '"$ray"' --address="$first:'"$PORT"'"; fi'
}

run() {
  remote 0 "cd dsi-jax && export $with_token && .venv/bin/python launch/cluster/wait_for_nodes.py $hosts &&
    timeout $LIMIT .venv/bin/python $RUN"
}

fetch() {
  call mkdir -p "$(dirname "$OUT")"
  call gcloud compute tpus tpu-vm scp --recurse "$NAME:dsi-jax/$OUT" "$(dirname "$OUT")" "${place[@]}" --worker=0
}

stop() { # Ray; the hosts stay
  remote all "cd dsi-jax && .venv/bin/ray stop"
}

delete() {
  call gcloud compute tpus tpu-vm delete "$NAME" "${place[@]}" --quiet
  deleted=yes
}

shell() { # on the first host
  call gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker=0
}

# ------------------------------------------------------------------------------------------------ what they are made of
remote() { # on worker $1, or on all of them
  call gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker="$1" --command="$2"
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
  rm -f "$archive" "$token"
  [[ $code == 0 ]] || echo "failed (exit code $code)" >&2
  if [[ -z ${deleted:-}$dry_run ]]; then
    echo "$NAME may still be running, and COSTS MONEY until you delete it:" >&2
    echo "  gcloud compute tpus tpu-vm delete $NAME ${place[*]} --quiet" >&2
  fi
  exit "$code"
}

read_arguments() {
  local argument known="create, install, start, run, fetch, stop, delete, shell"
  for argument in "$@"; do
    case $argument in
      --dry_run) dry_run=yes ;;
      create | install | start | run | fetch | stop | delete | shell | all) step=$argument ;;
      *) mistake "unknown argument '$argument'; known are $known, all and --dry_run" ;;
    esac
  done
  [[ -n $step ]] || mistake "say which step: $known or all"
}

check() {
  local count=${ACCELERATOR##*-} per_host
  [[ $count =~ ^[0-9]+$ ]] || mistake "ACCELERATOR=$ACCELERATOR must end in a number, such as v5litepod-16"
  case $ACCELERATOR in # as Google's page "TPU software versions" lists them
    v4-*) per_host=8 VERSION=${VERSION:-tpu-ubuntu2204-base} ;;
    v5litepod-*) per_host=4 VERSION=${VERSION:-v2-alpha-tpuv5-lite} ;;
    v5p-*) per_host=8 VERSION=${VERSION:-v2-alpha-tpuv5} ;;
    v6e-*) per_host=4 VERSION=${VERSION:-v2-alpha-tpuv6e} ;;
    *) mistake "ACCELERATOR=$ACCELERATOR is not known; take v4, v5litepod, v5p or v6e, such as v5litepod-16" ;;
  esac
  hosts=$((count / per_host))
  ((hosts > 1 && hosts * per_host == count)) ||
    mistake "ACCELERATOR=$ACCELERATOR is no slice of several hosts; launch/tpu/vm.sh takes one host"
  if [[ -n $dry_run ]]; then
    PROJECT=${PROJECT:-PROJECT}
  else
    [[ -n $PROJECT ]] || mistake "PROJECT is not set; set it to your Google Cloud project"
    command -v gcloud > /dev/null || mistake "gcloud is not installed; Google's page 'Install the gcloud CLI' says how"
  fi
  place=(--project="$PROJECT" --zone="$ZONE")
}

mistake() {
  echo "error: $1" >&2
  exit 2
}

main "$@"
