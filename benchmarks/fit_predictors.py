"""Makes `predictors/learned.json` again: the learned constants, through `predictors.fit`.

    python benchmarks/fit_predictors.py [--out FILE]

`ARCHRANK_DATA` names the folder of the public tables (default `../shared/data`; sources in docs/data.md). The same
tables and the same scikit-learn give the same file.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from archrank import predictors

DATA = Path(os.environ.get("ARCHRANK_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
OUT = Path(__file__).resolve().parents[1] / "predictors" / "learned.json"
TABLES = ("latency/llm_ops_fp16.csv.gz", "latency/ops_fp32_matmul.csv.gz", "latency/ops_fp32_rowwise.csv.gz")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out: Path = parser.parse_args().out
    fitted = predictors.fit([DATA / table for table in TABLES])
    out.write_text(json.dumps(fitted.learned.to_json(), separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
