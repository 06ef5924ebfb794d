#!/usr/bin/env bash
# The rank cells on one GPU: agreement and the sweep on the embedded task, the pipeline against its rivals on MiniLM with SST-2 and CoLA.
# Stops after 10 minutes and goes on where it was when it is started again. MINILM names the base's folder, TEXT the folder that
# holds sst2/ and cola/; without them the text tasks are left out. PYTHON names the interpreter; OUT the folder of results.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH=src:${PYTHONPATH:-} PYTHONUNBUFFERED=1
out=${OUT:-benchmarks/results}
mkdir -p "$out"
end=$((SECONDS + 600))
within() { # whatever is left of the ten minutes; 124 means that it ran out
    local left=$((end - SECONDS))
    if [ "$left" -le 5 ]; then echo "ten minutes are over: run again to go on"; exit 0; fi
    timeout "$left" "$@" || { [ $? -eq 124 ] && { echo "ten minutes are over: run again to go on"; exit 0; }; exit 1; }
}
stamp=$("$python" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-").lower())')
if [ -n "${MINILM:-}" ] && [ -n "${TEXT:-}" ]; then
    for task in sst2 cola; do
        within "$python" benchmarks/rank_quality.py --task "$task" --base "$MINILM" --data "$TEXT/$task" --device cuda --seeds "${SEEDS:-5}" \
            --train-steps 60 --rates 0.001,0.003 --methods search,uniform,svd,random --out "$out/rank_quality-$task-$stamp.json"
    done
fi
within "$python" benchmarks/rank_quality.py --seeds "${SEEDS:-5}" --out "$out/rank_quality-$stamp.json"
within "$python" benchmarks/rank_agreement.py --out "$out/rank_agreement-$stamp.json"
within "$python" benchmarks/rank_sweep.py --seeds "${SEEDS:-5}" --out "$out/rank_sweep-$stamp.json"
