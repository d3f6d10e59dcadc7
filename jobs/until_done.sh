#!/usr/bin/env bash
# Run until all is answered:   LOG=runs/mine.h5 jobs/until_done.sh MPIRUN'S WORDS -- OUR WORDS
#
# A run that ends too early is resumed from its record (--resume) on the hosts that are left. Whether all is answered
# stands in the record; mpirun's status after a node's loss proves nothing.
set -euo pipefail

: "${LOG:?the record of the run: LOG=runs/mine.h5}"
: "${TRIES:=5}"            # starts, at the most
: "${LIMIT_S:=86400}"      # seconds of one start, at the most
: "${PAUSE_S:=5}"          # before the next: hosts may come back
: "${RESUME_WORDS:=}"      # to be said anew then; a split by hand needs all its workers: RESUME_WORDS="--split even"
: "${HOSTS_LEFT:=true}"    # a command that prints mpirun's further words for the hosts that are left

cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v mpirun > /dev/null || { echo "there is no mpirun on PATH: activate the environment that make setup made" >&2; exit 2; }
if [ "$(id -u)" = 0 ] && [ -z "${OMPI_ALLOW_RUN_AS_ROOT:-}${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-}" ]; then
    echo "mpirun does not run as root: be another user, or export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" >&2
    exit 2
fi
mpi=()
while [ "${1:---}" != -- ]; do mpi+=("$1"); shift; done
shift || true

trap 'exit 130' INT                               # else bash would go on with the next start

for ((try = 1; try <= TRIES; try++)); do
    if [ -e "$LOG" ] && [ "$try" = 1 ]; then
        echo "$LOG is there already and is resumed" >&2
        words=(--resume "$LOG" "$@")              # what is said anew counts; another question is refused
    elif [ -e "$LOG" ]; then
        # shellcheck disable=SC2206
        words=(--resume "$LOG" ${RESUME_WORDS:-})
    else
        words=("$@" --log "$LOG")
    fi
    [ "$try" = 1 ] || sleep "$PAUSE_S"
    read -r -a left <<< "$($HOSTS_LEFT)"
    status=0
    timeout --foreground -k 20 "$LIMIT_S" mpirun "${left[@]}" "${mpi[@]}" python -m jarvis_mpi "${words[@]}" || status=$?
    for record in "$LOG" "${LOG%.h5}"-node*.h5; do  # a standby that went on has a record of its own
        if [ -e "$record" ] && python analysis/load.py --done "$record"; then
            [ "$record" = "$LOG" ] || echo "the end user died, and its standby went on: all is in $record" >&2
            exit 0
        fi
    done
    # 2: what was asked for cannot be done; 130: Ctrl-C
    if [ "$status" = 2 ] || [ "$status" = 130 ]; then exit "$status"; fi
    printf "\n%s\n" "start $try of $TRIES ended with status $status and is not done" >&2
done
exit 1
