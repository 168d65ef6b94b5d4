#!/usr/bin/env bash
# Installs what the tests of the launchers need beside Python, where that is possible: shellcheck,
# SLURM with munge, Open MPI. Tests whose tools are missing are skipped.
#
#   bash launch/cluster_tools.sh
#
# Works on Debian and its relatives as root, quickly when everything is there already; elsewhere it
# says what is missing. It never fails: a machine without these tools runs all other tests.
set -uo pipefail

# A program of each package, some of which are outside an ordinary user's PATH.
readonly NEEDED=(shellcheck:shellcheck slurmctld:slurm-wlm munged:munge mpirun:openmpi-bin)

say() { printf '[tools] %s\n' "$*" >&2; }

missing() {
    local entry
    for entry in "${NEEDED[@]}"; do
        command -v "${entry%%:*}" >/dev/null || printf '%s\n' "${entry##*:}"
    done
}

install() {
    export DEBIAN_FRONTEND=noninteractive
    local apt=(timeout 300 apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20)
    # The packages start services of their own where there is an init system; the tests start theirs.
    "${apt[@]}" update && "${apt[@]}" install --yes --no-install-recommends "$@"
}

main() {
    local packages log
    PATH=$PATH:/usr/sbin:/sbin
    mapfile -t packages < <(missing)
    ((${#packages[@]})) || return 0
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        say "not here, and only root can install them with apt-get: ${packages[*]}"
        return 0
    fi
    say "installing ${packages[*]}"
    log=$(mktemp)
    if install "${packages[@]}" >"$log" 2>&1; then
        say "done in $SECONDS s"
    else
        say "could not be installed, their tests are skipped: $(tail -n 1 "$log")"
    fi
    rm -f "$log"
}

main
exit 0
