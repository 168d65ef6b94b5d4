"""What a person types: flags, one call of what is below, the screen.

train/     pretrain, finetune (one run or a table), sweep, lr_find, evaluate, flags they share
use/       predict, embed, export, import, demo
data/      prepare, check, inspect, stats
look/      status, checkpoints, plan, bench
launch/    local, slurm, gke, tpu, mpi, and the supervisor of local processes
parsing    a command line → flags and a config, every mistake by name, no secrets
help, keys, screen   what is explained and shown
"""
