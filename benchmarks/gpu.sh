#!/usr/bin/env bash
# What a GPU day runs, from the repository's root: the GPU tests, then the side-by-side timings on the device.
# PYTHON names the interpreter that has the package's dependencies (default: python3); results are named by device and date.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH=src:${PYTHONPATH:-} PYTHONUNBUFFERED=1
out=${OUT:-benchmarks/results}
mkdir -p "$out"
device=$("$python" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-").lower())')
stamp="$device-$(date +%F)"
"$python" -m pytest -m gpu tests/gpu
"$python" benchmarks/training_overhead.py --device cuda --out "$out/training_overhead-$stamp.json"
