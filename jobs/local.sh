#!/usr/bin/env bash
# A chain on this machine:   jobs/local.sh [further words of python -m jarvis_mpi]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${PROMPT:=Why is the sky blue?}"
: "${MODEL:=smollm2-135m-instruct}"
: "${RANKS:=9}"                                   # the end user and eight workers
: "${VENV:=.venv}"                                # made by: make setup
: "${LOG:=runs/local-$(date +%Y%m%d-%H%M%S).h5}"
export LOG

[ -f "$VENV/bin/activate" ] || { echo "$VENV is no environment: make setup makes it, or name another in VENV" >&2; exit 2; }
. "$VENV/bin/activate"
asked=(--prompt "$PROMPT")
case " $* " in *" --prompts "*) asked=() ;; esac
exec jobs/until_done.sh -hostfile hostfiles/local -n "$RANKS" -- --model "$MODEL" "${asked[@]}" "$@"
