#!/bin/bash
# One stage on two machines with four GPUs each, from the repository:
#
#     sbatch docs/slurm.sh pretrain --preset h100 --out /shared/run
#
# Five minutes before the time limit every process gets SIGTERM, saves and ends; the job then queues itself again and
# goes on from there. --out is a folder that all machines see.

#SBATCH --job-name=rlhf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

# One task a machine: it starts a process for each GPU. The first machine of the job is where all meet.
srun python -m helpers.launch "$@" --processes "$SLURM_GPUS_ON_NODE" --nnodes "$SLURM_NNODES" \
    --rdzv-endpoint "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500" --max-restarts 3
code=$?

if [ "$code" = 143 ]; then # 128 + SIGTERM: saved, not done
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
