"""How often 90 % intervals of calibrated devices hold, by how many networks were measured, on six GPUs.

    python benchmarks/calibration_intervals.py [--out F.json]

1,200 sub-networks of GPT-2-small (`latency/gpt2_small_subnets.csv.gz`; `ARCHRANK_DATA` names the folder of the tables),
24 draws of the measured ones, 300 others judged. The constants of the stretch of the intervals were chosen on these.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
from pathlib import Path

import numpy as np
from record import write_result

from archrank import predictors, spaces

DATA = Path(os.environ.get("ARCHRANK_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FILE = DATA / "latency" / "gpt2_small_subnets.csv.gz"
OUT = Path(__file__).resolve().parent / "results" / "calibration_intervals.json"
GPUS = {"a100": "a100", "h100": "h100", "a40": "a40", "a6000": "rtx-a6000", "rtx3080": "rtx-3080", "v100": "v100"}
COUNTS, DRAWS, NETWORKS, JUDGED = (1, 2, 3, 5, 10, 20, 50, 200), 24, 1200, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    with gzip.open(FILE, "rt", encoding="utf-8", newline="") as packed:
        rows = list(csv.DictReader(packed))
    texts, space = spaces.read_table("gpt2_elastic", FILE), spaces.load("gpt2_elastic")
    picked = np.random.default_rng(1).choice(len(rows), NETWORKS, replace=False)
    works = [space.elaborate(space.parse(texts[i])).workload(8) for i in picked]
    found: dict[str, dict[str, float]] = {}
    for column, name in GPUS.items():
        device, found[column] = predictors.load(name), {}
        dtype = "bf16" if "bf16" in device.dtypes else "fp16"
        ms = np.array([float(rows[i][f"{column}_med"]) for i in picked])
        for count in COUNTS:
            inside = []
            for seed in range(DRAWS if count < COUNTS[-1] else DRAWS // 3):
                order = np.random.default_rng(seed).permutation(NETWORKS).tolist()
                known, rest = order[:count], order[count : count + JUDGED]
                fit = device.calibrated([works[i] for i in known], ms[known], dtype)
                told = fit.predict([works[i] for i in rest], dtype)
                inside.append(float(np.mean((told.low <= ms[rest]) & (ms[rest] <= told.high))))
            found[column][str(count)] = float(np.mean(inside))
    write_result(
        args.out,
        {
            "claim": "90 % intervals of calibrated devices hold nine of ten",
            "value": found,
            "unit": "share inside, by networks measured",
            "ci": None,
            "seeds": list(range(DRAWS)),
            "baselines": {},
        },
    )


if __name__ == "__main__":
    main()
