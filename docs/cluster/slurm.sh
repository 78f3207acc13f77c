#!/bin/bash
# UNTESTED. Two nodes with eight GPUs each; the run goes on by itself after the time limit's SIGTERM:
#     sbatch docs/cluster/slurm.sh experiment.yaml            and then
#     sbatch docs/cluster/slurm.sh experiment.yaml --resume
#SBATCH --job-name=igpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@600
set -euo pipefail

export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_TOKEN

nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
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
rllib train file "$@"
