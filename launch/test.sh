#!/usr/bin/env bash
# Sets everything up and runs the tests: bash launch/test.sh [pytest arguments; default: all of them]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/setup.sh test
export HF_HUB_OFFLINE=1
if [[ $# -eq 0 ]]; then
    set -- --durations=15
fi
exec .venv/bin/python -m pytest "$@"
