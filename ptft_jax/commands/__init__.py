"""What a person types: flags, one call of what is below, the screen.

train/     pretrain, finetune, evaluate, and the flags they share
use/       predict, embed, export, import, demo
data/      prepare, check, inspect, stats
look/      status, checkpoints, plan
launch/    local, slurm, gke, tpu, mpi, and the supervisor of local processes
parsing    a command line → flags and a config, every mistake by name
screen, describe, secrets   what is shown, and what must not be
"""
