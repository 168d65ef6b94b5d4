#!/usr/bin/env bash
# What is measured on one NVIDIA GPU: the tests that need one, then updates beside PyTorch's, at four
# shapes and on packed rows.
#
#   [DATA=CORPUS] [OUT=gpu_results] bash benchmarks/gpu.sh [tests] [SHAPE ...]
#
# SHAPEs: base128 base512 large128 large512 packed large_packed; without any, the tests and all of them.
# With DATA, a folder made by `ptft prepare`, the packed rows are of its text, cut to lengths of 266
# tokens in the mean; else of random tokens, two examples a row. large_packed runs alone: the same
# examples one a row would not fit beside it.
#
# All shapes compile first, as many at a time as memory allows, into caches; then each has the GPU to
# itself. Compile times are those in the first part. OUT gets gpu.log, all that is shown here, and
# gpu.json, what `ptft bench train` measured by shape. The exit code is 1 where something failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
out=${OUT:-gpu_results}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export JAX_COMPILATION_CACHE_DIR=$work/xla TORCHINDUCTOR_CACHE_DIR=$work/inductor
export XLA_PYTHON_CLIENT_PREALLOCATE=false HF_HUB_OFFLINE=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
GIB_OF_A_SHAPE=36

step() { printf '\n=== %s (%s s)\n' "$*" "$SECONDS"; }

bench() { # SHAPE [FLAG ...]
    local shape=$1 flags=(--config.model.dtype=bfloat16)
    shift
    case $shape in
        large*) flags+=(--config=configs/pretrain/bert_large.py --config.model.remat=False) ;;
        *) flags+=(--config=configs/pretrain/bert_base.py) ;;
    esac
    case $shape in
        base128) flags+=(--config.batch_size=256 --config.max_seq_length=128) ;;
        large128) flags+=(--config.batch_size=128 --config.max_seq_length=128) ;;
        base512 | packed) flags+=(--config.batch_size=64 --config.max_seq_length=512) ;;
        large512 | large_packed) flags+=(--config.batch_size=32 --config.max_seq_length=512) ;;
        *) echo "no shape $shape" && return 2 ;;
    esac
    # 15 % of the positions.
    [[ $shape == *128 ]] || flags+=(--config.max_predictions_per_seq=76)
    if [[ $shape == *packed ]]; then
        flags+=(--config.packing=True)
        [ -z "${DATA:-}" ] || flags+=(--config.data_dir="$DATA" --config.short_seq_prob=1.0 --config.workers=4)
    fi
    [ "$shape" = large_packed ] || flags+=(--against=hf)
    "$python" -m ptft_jax bench train "${flags[@]}" "$@"
}

run_tests() {
    step "tests of the GPU"
    if [ -d tests/gpu ]; then
        "$python" -m pytest tests/gpu -q -p no:cacheprovider
    else
        echo "tests/gpu is absent: skipped"
    fi
}

main() {
    local shape shapes=("$@") failed=0 memory at_once
    [ $# -gt 0 ] || shapes=(tests base128 base512 large128 large512 packed large_packed)
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || return 2
    "$python" -c 'import platform, sys
from importlib.metadata import version
names = ("jax", "jaxlib", "flax", "optax", "torch", "transformers")
print("Python", platform.python_version(), *(f"{name} {version(name)}" for name in names))'
    if [ "${shapes[0]}" = tests ]; then
        run_tests || failed=1
        shapes=("${shapes[@]:1}")
    fi
    memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -1)
    at_once=$((memory / 1024 / GIB_OF_A_SHAPE))
    step "compiling ${shapes[*]}"
    for shape in "${shapes[@]}"; do
        bench "$shape" --rounds=2 --updates=1 >"$work/$shape.log" 2>&1 &
        while [ "$(jobs -rp | wc -l)" -ge "$((at_once > 1 ? at_once : 1))" ]; do wait -n; done
    done
    wait
    for shape in "${shapes[@]}"; do
        printf '%s: ' "$shape"
        grep -iE 'compil|first update' "$work/$shape.log" || tail -n 3 "$work/$shape.log"
    done
    for shape in "${shapes[@]}"; do
        step "$shape"
        bench "$shape" --json="$work/$shape.json" || failed=1
    done
    "$python" - "$work" "$out/gpu.json" <<'PY'
import json, pathlib, sys
found = {path.stem: json.loads(path.read_text()) for path in pathlib.Path(sys.argv[1]).glob("*.json")}
pathlib.Path(sys.argv[2]).write_text(json.dumps(found, indent=1) + "\n")
PY
    step "done"
    return $failed
}

main "$@" 2>&1 | tee "$out/gpu.log"
