#!/usr/bin/env bash
# Runs a ptft command in several processes under Open MPI:
#
#   bash launch/mpi.sh --coordinator_address=HOST:PORT MPIRUN-OPTIONS … -- pretrain …
#
# HOST is where rank 0 runs: the first host of mpirun's list. Several ranks on a host take one of its
# accelerators each, a single one takes all. PTFT names the ptft to run (default: the one on PATH).
# SIGTERM or Ctrl-C lets the job save and stop (exit code 75). With the command checked and the
# address found: ptft launch mpi … -- pretrain …
set -euo pipefail

die() {
    printf 'mpi.sh: error: %s\n' "$*" >&2
    exit 2
}

# What every rank runs. It stays between mpirun and ptft to hand on the wish to stop: to SIGTERM
# mpirun's own answer is to kill the ranks before they could save, SIGUSR1 it passes on.
# shellcheck disable=SC2317  # called by its name inside the shell that mpirun starts
run_rank() {
    local pid='' asked='' code=0 ptft=$1
    shift
    stop() {
        asked=yes
        [[ -z $pid ]] || kill -TERM "$pid" 2>/dev/null || true
    }
    trap stop USR1 TERM
    if ((OMPI_COMM_WORLD_LOCAL_SIZE > 1)) && [[ " $*" != *' --local_device_ids'[=\ ]* ]]; then
        set -- "$@" "--local_device_ids=$OMPI_COMM_WORLD_LOCAL_RANK"
    fi
    set -- "$@" "--num_processes=$OMPI_COMM_WORLD_SIZE" "--process_id=$OMPI_COMM_WORLD_RANK"
    # mpirun passes a signal to all of a rank's processes; ptft, which does not know this one, ignores it.
    (
        trap '' USR1
        exec "$ptft" "$@"
    ) &
    pid=$!
    [[ -z $asked ]] || stop
    # A signal ends `wait` early; asked again after the end it still knows the exit code.
    while kill -0 "$pid" 2>/dev/null; do
        wait "$pid" || true
    done
    wait "$pid" || code=$?
    exit "$code"
}

main() {
    local address='' code=0 mpirun options=()
    while (($#)) && [[ $1 != -- ]]; do
        case $1 in
            --coordinator_address=*) address=${1#*=} ;;
            *) options+=("$1") ;;
        esac
        shift
    done
    (($# > 1)) || die "nothing to run: expected -- and a ptft command"
    shift
    [[ -n $address ]] || die "--coordinator_address=HOST:PORT is needed: the first host of the job, and a free port there"
    command -v mpirun >/dev/null || die "mpirun is not on PATH: install Open MPI (Debian: openmpi-bin)"

    # In a process group of its own, so that Ctrl-C reaches this script and not mpirun.
    set -m
    mpirun --map-by slot --bind-to none "${options[@]}" bash -c "$(declare -f run_rank); run_rank \"\$@\"" run_rank \
        "${PTFT:-ptft}" "$@" "--coordinator_address=$address" </dev/null &
    mpirun=$!
    trap 'kill -USR1 "$mpirun" 2>/dev/null || true' TERM INT HUP
    while kill -0 "$mpirun" 2>/dev/null; do
        wait "$mpirun" || true
    done
    wait "$mpirun" || code=$?
    exit "$code"
}

main "$@"
