#!/usr/bin/env bash
# Sets everything up and starts a command in several processes on this machine:
#
#   bash launch/local.sh --processes=2 -- pretrain --config=… --run_dir=…
#
# PTFT_EXTRAS=cuda (or tpu) installs JAX for accelerators: see launch/setup.sh. Paths among the
# arguments count from the repository's folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/setup.sh
exec .venv/bin/ptft launch local "$@"
