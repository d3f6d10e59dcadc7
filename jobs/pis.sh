#!/usr/bin/env bash
# A chain over the hosts of a hostfile, by ssh:   jobs/pis.sh [further words of python -m jarvis_mpi]
# Each host gets the part of the model that it needs; the doctor looks at every host; then it runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${PROMPT:=Why is the sky blue?}"
: "${MODEL:=smollm2-135m-instruct}"
: "${HOSTFILE:=hostfiles/pis}"                    # yourself first, then the workers
: "${DOCTOR:=yes}"                                # no: start without looking
: "${STAGE_WORDS:=}"                              # for stage-model, as the run's own: --split 2,3,3 --copies 2
: "${VENV:=.venv}"                                # made by: make setup, at the same path everywhere
: "${LOG:=runs/pis-$(date +%Y%m%d-%H%M%S).h5}"
export LOG

[ -f "$VENV/bin/activate" ] || { echo "$VENV is no environment: make setup makes it, or name another in VENV" >&2; exit 2; }
. "$VENV/bin/activate"
asked=(--prompt "$PROMPT")
case " $* " in *" --prompts "*) asked=() ;; esac
# shellcheck disable=SC2086
python -m jarvis_mpi stage-model --hostfile "$HOSTFILE" --model "$MODEL" $STAGE_WORDS || true   # the doctor says more
if [ "$DOCTOR" = yes ]; then
    python -m jarvis_mpi doctor --hostfile "$HOSTFILE" --model "$MODEL" --log "${LOG%.h5}-doctor.h5" "$@"
    asked+=(--links "${LOG%.h5}-doctor.h5")                # its figures of the links are kept in the record
fi
ranks=$(python -m jarvis_mpi.net.hostfile "$HOSTFILE")
exec jobs/until_done.sh -hostfile "$HOSTFILE" -n "$ranks" -- --model "$MODEL" "${asked[@]}" "$@"
