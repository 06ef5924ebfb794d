#!/usr/bin/env bash
# What a GPU day runs, from the repository's root, on one GPU and in under 10 minutes: the GPU tests, each kernel against fp64 and against its
# floor, population evaluation, one whole rank search, the training overhead. An interrupted run goes on where it was when it is started again.
# PYTHON names the interpreter that has the package's dependencies (default: python3); results are named by device and date.
# `benchmarks/gpu.sh cpu` runs the same on tiny shapes without a GPU: a check of this script, not a measurement.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH=src:${PYTHONPATH:-} PYTHONUNBUFFERED=1
out=${OUT:-benchmarks/results}
# torch and triton are the machine's own; what else it lacks comes from benchmarks/wheels (python benchmarks/pack_wheels.py fills it beforehand)
if ! "$python" -c 'import lark, numpy, transformers, peft, datasets, moocore, pytest' 2>/dev/null; then
    ls benchmarks/wheels/*.whl >/dev/null 2>&1 || { echo "packages are missing and benchmarks/wheels is empty: run python benchmarks/pack_wheels.py where there is a network" >&2; exit 2; }
    [ -d benchmarks/wheels/site ] || "$python" -m pip install --quiet --no-index --no-deps --target benchmarks/wheels/site benchmarks/wheels/*.whl
    export PYTHONPATH=$PYTHONPATH:$PWD/benchmarks/wheels/site
fi
mkdir -p "$out"
if [ "${1:-}" = cpu ]; then
    "$python" benchmarks/gpu_kernels.py --device cpu --small --out "$out/gpu-check.json"
    exit
fi
export TRITON_INTERPRET=0
device=$("$python" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-").lower())')
stamp="$device-$(date +%F)"
"$python" -m pytest -m gpu tests/gpu
"$python" benchmarks/gpu_kernels.py --out "$out/gpu-$stamp.json"
"$python" benchmarks/gpu_table.py "$out/gpu-$stamp.json" --into README.md
"$python" benchmarks/training_overhead.py --device cuda --out "$out/training_overhead-$stamp.json"
