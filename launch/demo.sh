#!/usr/bin/env bash
# Sets everything up and runs the whole path on the embedded corpus: bash launch/demo.sh [--run_dir=DIR]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/setup.sh
exec .venv/bin/ptft demo "$@"
