#!/usr/bin/env bash
# Sets everything up and runs the full fault suite in real processes, half an hour on two cores:
#
#   bash benchmarks/faults.sh [--only=kills_1,stops] [--out=runs/faults]
#
# As root it also fills a disk and makes two network namespaces.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/setup.sh test
# Python may keep what it compiles: without, each process compiles all it imports, 2 s of its start.
unset PYTHONDONTWRITEBYTECODE
export JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1
export XLA_FLAGS="${XLA_FLAGS:-} --xla_backend_optimization_level=0"
PYTHONPATH=tests exec .venv/bin/python benchmarks/fault_suite.py "$@"
