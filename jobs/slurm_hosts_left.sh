#!/usr/bin/env bash
# mpirun's words for the nodes of this Slurm job that answer: --host a,b,c -n 3
set -euo pipefail
: "${PROBE_S:=20}"
there=$(mktemp -d)
trap 'rm -r "$there"' EXIT
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
for node in "${nodes[@]}"; do
    timeout -k 1 "$PROBE_S" srun --overlap --immediate="$PROBE_S" --nodes=1 --ntasks=1 --nodelist="$node" --output=/dev/null \
        true 2> /dev/null < /dev/null && touch "$there/$node" &
done
wait 2> /dev/null                                  # bash would tell of each that was ended
left=()
for node in "${nodes[@]}"; do
    if [ -e "$there/$node" ]; then left+=("$node"); else echo "node $node does not answer: bypassed" >&2; fi
done
IFS=,
echo "--host ${left[*]} -n ${#left[@]}"
