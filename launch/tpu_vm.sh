#!/usr/bin/env bash
# Runs a ptft command on all workers of a TPU VM, through gcloud's ssh:
#
#   bash launch/tpu_vm.sh --name=NAME --zone=ZONE [--project=PROJECT] [--repo_dir=DIR] -- pretrain …
#
# DIR is the checkout on the workers (default: ptft_jax in the home folder), set up there by
# PTFT_EXTRAS=tpu bash launch/setup.sh. The workers find each other by themselves. Or, with the command
# checked first: ptft launch tpu … -- pretrain …
set -euo pipefail

die() {
    printf 'tpu_vm.sh: error: %s\n' "$*" >&2
    exit 2
}

# One word for a shell of any kind: in single quotes, each of those in it taken out and escaped.
quoted() { printf "'%s'" "${1//\'/\'\\\'\'}"; }

main() {
    local name='' zone='' project='' repo_dir=ptft_jax command argument
    while (($#)); do
        case $1 in
            --name=*) name=${1#*=} ;;
            --zone=*) zone=${1#*=} ;;
            --project=*) project=${1#*=} ;;
            --repo_dir=*) repo_dir=${1#*=} ;;
            --) break ;;
            *) die "unknown option $1; expected --name, --zone, --project, --repo_dir, then -- and a ptft command" ;;
        esac
        shift
    done
    [[ ${1:-} == -- && $# -gt 1 ]] || die "nothing to run: expected -- and a ptft command"
    shift
    [[ -n $name && -n $zone ]] || die "--name and --zone are needed"
    command -v gcloud >/dev/null || die "gcloud is not on PATH: install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)"

    command="cd $(quoted "$repo_dir") && exec .venv/bin/ptft"
    for argument in "$@"; do
        command+=" $(quoted "$argument")"
    done
    exec gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" ${project:+"--project=$project"} \
        --worker=all "--command=$command"
}

main "$@"
