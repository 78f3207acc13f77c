#!/bin/bash
# UNTESTED. Two nodes with eight GPUs each. Slurm sends SIGTERM ten minutes before the time limit; the run then finishes its
# iteration, saves and ends, and goes on with --resume:
#     sbatch docs/cluster/slurm.sh two_nodes.yaml             and then
#     sbatch docs/cluster/slurm.sh two_nodes.yaml --resume
# Submit from a clone on a disk that all nodes share, after `make setup GPU=1` there. STORAGE (a shared folder or a bucket) gets the runs.
#SBATCH --job-name=igpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
# Without B: Slurm signals the steps, here Ray, and not this shell.
#SBATCH --signal=B:TERM@600
set -euo pipefail

STORAGE=${STORAGE:-$SLURM_SUBMIT_DIR/runs}
source "${VENV:-$SLURM_SUBMIT_DIR/.venv}/bin/activate"

export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}'):6379

srun --overlap --nodes=1 --ntasks=1 -w "$head" \
    ray start --head --node-ip-address "${address%:*}" --port 6379 --disable-usage-stats --block &
sleep 20
for node in "${nodes[@]:1}"; do
    srun --overlap --nodes=1 --ntasks=1 -w "$node" \
        ray start --address "$address" --disable-usage-stats --block &
done
sleep 20

export RAY_ADDRESS=$address
# rllib takes the place of this shell, and so gets the signal.
exec rllib train file "$@" --set "storage_path=$STORAGE"
