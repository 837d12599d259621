#!/bin/bash
# vidfit on two machines with 8 GPUs each under Slurm: `sbatch slurm.sh`. Asks for SIGTERM before time is up, and resumes.
# Never run: we had no Slurm.
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64
#SBATCH --time=24:00:00 --requeue --signal=B:TERM@120
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
trap 'scancel --signal=TERM "$SLURM_JOB_ID"; wait; scontrol requeue "$SLURM_JOB_ID"' TERM
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d \
    --rdzv-endpoint "$first:29500" -m vidfit run recipe.yaml -o "$SCRATCH/RUN" &
wait
