#!/bin/bash
# Train on one or several nodes, and go on by itself after preemption and time limits.
#
#   sbatch examples/slurm_train.sh dataset run
#   sbatch --nodes 2 examples/slurm_train.sh dataset run --network unet --batch-size 32
#
# Data set and run must lie on a disk that all nodes share. --batch-size is that of all GPUs
# together, and must be a multiple of their number.
#SBATCH --job-name=clearice
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem=120G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# This shell gets SIGUSR1 two minutes ahead of the time limit, time enough for a save.
#SBATCH --signal=B:USR1@120

set -u
dataset=$1 out=$2
shift 2

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS=1

# What was begun goes on with the settings it has; options count for a new run alone.
if [ -e "$out/config.yaml" ]; then
  set -- --resume
fi

# One process a GPU. Without --kill-on-bad-exit a lost node would keep the others waiting.
srun --kill-on-bad-exit=1 bash -c '
  export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS
  export LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
  exec clearice train "$@"' train "$dataset" --out "$out" "$@" &
srun=$!
# srun passes the signal on to all processes; they save and end with exit code 130.
stop() { kill -USR1 "$srun"; }
trap stop USR1 TERM
wait "$srun"
code=$?
while [ "$code" -gt 128 ] && [ "$code" -ne 130 ]; do # a signal ended the waiting, not srun
  wait "$srun"
  again=$?
  [ "$again" -eq 127 ] && break # it was srun after all
  code=$again
done

if [ "$code" -eq 130 ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
