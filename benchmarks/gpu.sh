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
"$python" benchmarks/gpu_table.py "$out/gpu-$stamp.json"
"$python" benchmarks/training_overhead.py --device cuda --out "$out/training_overhead-$stamp.json"
