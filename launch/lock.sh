#!/usr/bin/env bash
# Regenerates requirements.lock and requirements.txt from pyproject.toml.
#
#   bash launch/lock.sh              keeps every pin that still satisfies pyproject.toml
#   bash launch/lock.sh --upgrade    takes the newest versions
#
# requirements.lock holds every extra but the tracking services with hashes, for all platforms; it names no package index, so it
# works behind a mirror too. requirements.txt is the run-time part of it, without extras.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=launch/find_uv.sh
source launch/find_uv.sh
find_uv

"$UV" pip compile pyproject.toml --universal --python-version 3.12 --extra test --extra cuda --extra tpu \
    --extra hf --extra dedup \
    --generate-hashes --no-header -q -o requirements.lock "$@"
"$UV" pip compile pyproject.toml --universal --python-version 3.12 --no-header --no-annotate \
    -c requirements.lock -q -o requirements.txt
