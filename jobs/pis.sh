#!/usr/bin/env bash
# A chain over the hosts of a hostfile, by ssh:   jobs/pis.sh [further words of python -m jarvis_mpi]
# Its doctor looks at every host first; then each gets the part of the model that it needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${PROMPT:=Why is the sky blue?}"
: "${MODEL:=smollm2-135m-instruct}"
: "${HOSTFILE:=hostfiles/pis}"                    # yourself first, then the workers
: "${DOCTOR:=yes}"                                # no: start without looking
: "${VENV:=.venv}"                                # made by: make setup, at the same path everywhere
: "${LOG:=runs/pis-$(date +%Y%m%d-%H%M%S).h5}"
export LOG

. "$VENV/bin/activate"
if [ "$DOCTOR" = yes ]; then
    python -m jarvis_mpi doctor --hostfile "$HOSTFILE" --model "$MODEL"
fi
ranks=$(sed -e 's/#.*//' "$HOSTFILE" | awk 'NF { n = 1; for (i = 2; i <= NF; i++) if (sub(/^slots=/, "", $i)) n = $i; sum += n } END { print sum }')
exec jobs/until_done.sh -hostfile "$HOSTFILE" -n "$ranks" -- --model "$MODEL" --prompt "$PROMPT" "$@"
