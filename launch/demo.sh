#!/usr/bin/env bash
# Sets everything up and runs the whole path on the embedded corpus: bash launch/demo.sh [--run_dir=DIR]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/setup.sh
# Python may keep what it compiles: without, each process compiles all it imports, 2 s of its start.
unset PYTHONDONTWRITEBYTECODE
exec .venv/bin/ptft demo "$@"
