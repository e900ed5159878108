#!/usr/bin/env bash
# One training on Slurm, on a Ray cluster of its own: sbatch deploy/slurm.sh recipes/calc_x.yaml --set output=/shared/outputs
# To be submitted from the project's folder, which all nodes see, with its .venv. The driver runs in this script, on
# the first node; Slurm's warning before the time is over reaches it alone, so that it writes a checkpoint while all
# else still runs. The same line with --resume added goes on from there. It asks for whole nodes: where they are shared,
# a task has a single core, and little memory, beside its GPUs.
#SBATCH --job-name=al_ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --output=al_ray-%j.log
set -euo pipefail
export PATH="$PWD/.venv/bin:$PATH"

# Whoever speaks to Ray runs code: this job's cluster listens to nobody else.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')

head=$(python -c 'import ray; print(ray.util.get_node_ip_address())')
export RAY_ADDRESS="$head:$((20000 + SLURM_JOB_ID % 20000))"
ulimit -n "$(ulimit -Hn)"

# What Slurm gives to the job of each node is what Ray may use of it.
resources=(--num-cpus "${SLURM_CPUS_ON_NODE}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --object-store-memory 4000000000)
ray start --head --block --node-ip-address "$head" --port "${RAY_ADDRESS##*:}" "${resources[@]}" > "ray-$SLURM_JOB_ID.log" 2>&1 &
parts=$!
others=$((SLURM_JOB_NUM_NODES - 1))
if ((others > 0)); then
    # A step has all cores of the job on its nodes; its task may else be bound to one of them.
    srun --nodes "$others" --ntasks "$others" --cpu-bind=none --exclude "$SLURMD_NODENAME" \
        ray start --address "$RAY_ADDRESS" --block "${resources[@]}" >> "ray-$SLURM_JOB_ID.log" 2>&1 &
    parts="$parts $!"
fi
trap 'kill $parts; wait' EXIT

python - "$SLURM_JOB_NUM_NODES" <<'PYTHON'
import sys, time
import ray
wanted, until = int(sys.argv[1]), time.monotonic() + 300
while True:
    try:
        ray.init(logging_level="error")
        found = sum(node["Alive"] for node in ray.nodes())
        ray.shutdown()
    except ConnectionError:
        found = 0
    if found >= wanted:
        break
    if time.monotonic() > until:
        sys.exit(f"{found} of {wanted} nodes joined within 300 s: their log says why")
    time.sleep(2)
PYTHON

al-ray doctor "$1" --cluster || echo "a run may do without what is lacking, where none of its parts live there"
al-ray train "$@" &
driver=$!
trap 'kill -TERM $driver' TERM
while kill -0 $driver 2> /dev/null; do # a signal ends what waits, not the driver
    code=0
    wait $driver || code=$?
done
exit $code
