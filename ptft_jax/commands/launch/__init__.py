"""Launchers: local, slurm, gke, tpu, mpi; command checks what is started, supervisor watches it."""
