# What the sweeps share; they set RUNS, FIGURES, NAME, PROMPT and TOKENS, then read this file.

: "${MODEL:=smollm2-135m-instruct}"
: "${VENV:=.venv}"
: "${HOSTFILE:=hostfiles/local}"                  # without Slurm
: "${RANKS:=5}"                                   # without Slurm
: "${FOLDER:=runs/$NAME-${SLURM_ARRAY_JOB_ID:-$(date +%Y%m%d-%H%M%S)}}"

[ -f "$VENV/bin/activate" ] || { echo "$VENV is no environment: make setup makes it, or name another in VENV" >&2; exit 2; }
. "$VENV/bin/activate"
mkdir -p "$FOLDER"
mpi=(-hostfile "$HOSTFILE" -n "$RANKS")
tasks=("${!RUNS[@]}")
if [ -n "${SLURM_JOB_ID:-}" ]; then
    export HOSTS_LEFT=jobs/slurm_hosts_left.sh SLURM_OVERLAP=1
    mpi=()
    tasks=("${SLURM_ARRAY_TASK_ID:?submit this with sbatch, as an array}")
fi
records=()
for run in "${RUNS[@]}"; do records+=("$FOLDER/${run%% *}.h5"); done

for task in "${tasks[@]}"; do
    eval "words=(${RUNS[$task]#* })"              # so that a fault's words stay one word
    LOG=${records[$task]} jobs/until_done.sh "${mpi[@]}" -- --model "$MODEL" --prompt "$PROMPT" \
        --max-new-tokens "$TOKENS" --ignore-eos "${words[@]}" > "${records[$task]%.h5}.txt"
done
for record in "${records[@]}"; do
    if [ ! -e "$record" ] || ! python analysis/load.py --done "$record"; then exit 0; fi
done
for figure in "${FIGURES[@]}"; do
    python analysis/${figure%% *} "${records[@]}" $(expr "$figure" : '[^ ]*\(.*\)' || true)
done
