#!/usr/bin/env bash
# Sets everything up and runs the tests: bash launch/test.sh [pytest arguments; default: all of them]
#
#   bash launch/test.sh -m "not slow" -n 2    those of .ci/run, in two processes
#   bash launch/test.sh -m slow               the long ones alone, tests/slow.txt
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/setup.sh test
# Python may keep what it compiles: without, each process compiles all it imports, 2 s of its start.
unset PYTHONDONTWRITEBYTECODE
export HF_HUB_OFFLINE=1
if [[ $# -eq 0 ]]; then
    set -- --durations=15
fi
exec .venv/bin/python -m pytest "$@"
