#!/usr/bin/env bash
# Makes .venv with ptft_jax and its pinned dependencies; does nothing when that is already done.
#
#   bash launch/setup.sh [EXTRA ...]        extras of pyproject.toml: test, cuda, tpu, hf, dedup
#   PTFT_EXTRAS=cuda bash launch/demo.sh    the same through the environment
#
# Needs bash and python3 only: uv (the installer) is fetched into .tools/ when it is not on PATH, and
# a Python >= 3.12 into uv's own folder when the machine has none. Package indexes and mirrors are
# those of uv's and pip's own settings (UV_DEFAULT_INDEX, UV_INDEX_URL, PIP_INDEX_URL).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=launch/find_uv.sh
source launch/find_uv.sh

is_usable_python() {
    runs "$1" -c '
import sys, sysconfig
sys.exit(sys.version_info < (3, 12) or bool(sysconfig.get_config_var("Py_GIL_DISABLED")))'
}

find_python() {
    local candidate
    for candidate in python3.12 python3.13 python3.14 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python; do
        if is_usable_python "$candidate"; then
            PYTHON=$candidate
            return
        fi
    done
    if ! PYTHON=$("$UV" python find '>=3.12' 2>/dev/null) || ! is_usable_python "$PYTHON"; then
        say "no Python >= 3.12 on this machine: fetching one"
        "$UV" python install 3.12 || die "Python >= 3.12 is needed and could not be fetched; install it and start again"
        PYTHON=$("$UV" python find 3.12)
    fi
}

# The stamp holds what .venv was made from (first line) and the extras in it (second line).
fingerprint() {
    .venv/bin/python - <<'PY'
import hashlib, os, pathlib, sys

made_from = [os.getcwd(), sys.version]
made_from += [pathlib.Path(name).read_text() for name in ("pyproject.toml", "requirements.lock")]
print(hashlib.sha256("\0".join(made_from).encode()).hexdigest())
PY
}

main() {
    local extras have_fingerprint='' have_extras='' extra missing=no now
    extras="$* ${PTFT_EXTRAS:-}"
    extras=${extras//,/ }
    for extra in $extras; do
        [[ " test cuda tpu hf dedup wandb mlflow trackio " == *" $extra "* ]] || die "there is no extra '$extra'; the extras are test, cuda, tpu, hf, dedup, wandb, mlflow and trackio"
    done

    if ! is_usable_python .venv/bin/python; then
        find_uv
        find_python
        say "making .venv with $("$PYTHON" --version)"
        "$UV" venv --quiet --clear --python "$PYTHON" .venv
    fi

    now=$(fingerprint)
    if [[ -f .venv/ptft-setup ]]; then
        { read -r have_fingerprint && read -r have_extras; } <.venv/ptft-setup || true
    fi
    [[ "$have_fingerprint" == "$now" ]] || missing=yes
    for extra in $extras; do
        [[ " $have_extras " == *" $extra "* ]] || missing=yes
    done
    [[ "$missing" == yes ]] || return 0

    extras=$(tr -s ' ' '\n' <<<"$extras $have_extras" | sed '/^$/d' | sort -u | paste -sd' ' -)
    find_uv
    say "installing ptft_jax${extras:+ with extras: $extras}"
    if [[ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" && -n "${PIP_INDEX_URL:-}" ]]; then
        export UV_DEFAULT_INDEX=$PIP_INDEX_URL
    fi
    rm -f .venv/ptft-setup
    "$UV" pip install --quiet --python .venv/bin/python --constraint requirements.lock \
        --editable ".${extras:+[${extras// /,}]}"
    printf '%s\n%s\n' "$now" "$extras" >.venv/ptft-setup
    say "done in ${SECONDS} s"
}

main "$@"
