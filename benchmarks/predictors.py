"""What the predictors reach on public tables, on networks and devices that they have not seen.

    python benchmarks/predictors.py [--seed S] [--out F.json]

`ARCHRANK_DATA` names the folder of the tables (default `../shared/data`). Parts: ops and layers of an LLM left out and
of an A100 left out; sub-networks of GPT-2-small by how many were measured, on three GPUs (`bf16`; the price of an
uncalibrated stack was settled with A100, H100, A40 and A6000 in view: those figures are not blind); NAS-Bench-201, each
of 27 settings left out by turns. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import Cells, write_result

from archrank import predictors, spaces
from archrank.predictors import metrics

DATA = Path(os.environ.get("ARCHRANK_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
OUT = Path(__file__).resolve().parent / "results" / "predictors.json"
GEMM = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
Row = dict[str, str]
Array = NDArray[np.float64]


def table(name: str) -> list[Row]:
    with gzip.open(DATA / name, "rt", encoding="utf-8", newline="") as packed:
        return list(csv.DictReader(packed))


def llm_rows() -> list[Row]:
    """Rows at about 50 token counts, even on a log scale; repeated measurements of one op are replaced by their
    median.
    """
    rows = table("latency/llm_ops_fp16.csv.gz")
    tokens = np.unique([int(row["M"]) for row in rows])
    wanted = np.r_[np.round(np.logspace(0, 15, 48, base=2) / 8) * 8, 1, 2, 4, 8, 16, 24, 32, 40, 48]
    kept = set(tokens[np.abs(tokens[:, None] - wanted).argmin(axis=0)].tolist())
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if int(row["M"]) in kept:
            groups.setdefault(tuple(row[c] for c in ("device", "model", "op", "M", "N", "K", "tp")), []).append(row)
    return [{**g[0], "ms_median": str(np.median([float(r["ms_median"]) for r in g]))} for g in groups.values()]


def fitted(rows: Sequence[Row]) -> predictors.Device:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return predictors.fit([file]).load("a100")


def told(device: predictors.Device, rows: Sequence[Row]) -> dict[str, list[float]]:
    """Measured and predicted ms of the products, and of the layers (all ops of a model at M and tp)."""
    products = [row for row in rows if row["op"] in GEMM]
    m, n, k = (np.array([float(row[c]) for row in products]) for c in ("M", "N", "K"))
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["M"], row["tp"]), []).append(row)
    works = [predictors.workload([{c: r[c] for c in ("op", "M", "N", "K")} for r in g]) for g in groups.values()]
    return {
        "gemm": [float(row["ms_median"]) for row in products],
        "gemm_told": np.asarray(device.op_ms("linear", m=m, n=n, k=k, dtype="fp16")).tolist(),
        "layer": [sum(float(r["ms_median"]) for r in g) for g in groups.values()],
        "layer_told": device.predict(works, "fp16").ms.tolist(),
    }


def left_out(rows: Sequence[Row], model: str) -> dict[str, list[float]]:
    """One LLM left out, with every product of its shapes, of whatever model."""
    test = [row for row in rows if row["device"] == "a100" and row["model"] == model]
    shapes = {(row["N"], row["K"]) for row in test if row["op"] in GEMM}
    rest = [r for r in rows if r["model"] != model and not (r["op"] in GEMM and (r["N"], r["K"]) in shapes)]
    return told(fitted(rest), test)


def no_a100(rows: Sequence[Row]) -> dict[str, Any]:
    """No A100 row: ops, layers, and layers with five of them measured (20 draws)."""
    test = [row for row in rows if row["device"] == "a100"]
    device = fitted([row for row in rows if row["device"] != "a100"])
    found: dict[str, Any] = dict(told(device, test))
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in test:
        groups.setdefault((row["model"], row["M"], row["tp"]), []).append(row)
    works = [predictors.workload([{c: r[c] for c in ("op", "M", "N", "K")} for r in g]) for g in groups.values()]
    ms, few = np.asarray(found["layer"]), []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(ms)).tolist()
        five = device.calibrated([works[i] for i in order[:5]], ms[order[:5]], "fp16")
        few.append(metrics.mape(ms[order[5:]], five.predict([works[i] for i in order[5:]], "fp16").ms))
    return {
        "gemm": metrics.mape(ms_of(found, "gemm"), ms_of(found, "gemm_told")),
        "layer": metrics.mape(ms, ms_of(found, "layer_told")),
        "five": few,
    }


def ms_of(found: dict[str, Any], key: str) -> Array:
    return np.asarray(found[key], dtype=np.float64)


def sub_networks(gpu: str, first: int) -> dict[str, Any]:
    """MAPE, ρ, coverage and width by how many of 3,000 sub-networks were measured; Kendall's τ within one width."""
    rows, space = table("latency/gpt2_small_subnets.csv.gz"), spaces.load("gpt2_elastic")
    texts = spaces.read_table("gpt2_elastic", DATA / "latency" / "gpt2_small_subnets.csv.gz")
    picked = np.random.default_rng(7).choice(len(rows), 3000, replace=False)
    works = [space.elaborate(space.parse(texts[i])).workload(8) for i in picked]
    ms = np.array([float(rows[i][f"{gpu}_med"]) for i in picked])
    device = predictors.load(gpu)
    found: dict[str, Any] = {"0": {"mape": [metrics.mape(ms, device.predict(works, "bf16").ms)]}}
    for count in (1, 5, 10, 20, 50, 200):
        each: dict[str, list[float]] = {"mape": [], "spearman": [], "inside": [], "width": [], "kendall_768": []}
        for seed in range(first, first + 20):
            order = np.random.default_rng(seed).permutation(len(ms)).tolist()
            known, rest = order[:count], order[count:]
            fit = device.calibrated([works[i] for i in known], ms[known], "bf16")
            got = fit.predict([works[i] for i in rest], "bf16")
            each["mape"].append(metrics.mape(ms[rest], got.ms))
            each["spearman"].append(metrics.spearman(ms[rest], got.ms))
            each["inside"].append(float(np.mean((got.low <= ms[rest]) & (ms[rest] <= got.high))))
            each["width"].append(float(np.median((got.high - got.low) / got.ms)))
            if count == 200:
                wide = np.array([rows[picked[i]]["embed_dim"] == "768" for i in rest])
                each["kendall_768"].append(metrics.kendall(ms[rest][wide], got.ms[wide]))
        found[str(count)] = {key: values for key, values in each.items() if values}
    return found


def cells_of_nasbench(first: int) -> dict[str, Any]:
    """Spearman's ρ and coverage on each setting left out, 10 measured, 3 draws: from all other settings, from those of
    other chips, and without transfer.
    """
    rows = [row for row in table("nas/nasbench201.csv.gz") if float(row["c10_test"]) > 10.01]
    rows = [rows[i] for i in np.random.default_rng(0).choice(len(rows), 2500, replace=False)]
    cells = [re.findall(r"\|?([a-z0-9_]+)~\d", row["arch"]) for row in rows]
    x = np.array([[float(o == p) for o in c for p in OPS] + [float(c.count(p)) for p in OPS] for c in cells])
    names = [key[4:] for key in rows[0] if key.startswith("lat_")]
    ms = {name: np.array([float(row[f"lat_{name}"]) for row in rows]) for name in names}
    found: dict[str, Any] = {}
    for name in names:
        chip = re.sub(r"_\d+$", "", name)
        others = [other for other in names if other != name]
        foreign = [other for other in others if re.sub(r"_\d+$", "", other) != chip]
        sources = {"all": others, "other_chips": foreign, "none": []}
        each: dict[str, list[float]] = {key: [] for key in (*sources, "inside")}
        for seed in range(first, first + 3):
            known = np.random.default_rng(seed).choice(len(x), 10, replace=False)
            rest = np.setdiff1d(np.arange(len(x)), known)
            for key, from_ in sources.items():
                past = np.stack([ms[other] for other in from_], axis=1) if from_ else np.ones((len(x), 1))
                got = predictors.transfer(x, past, {int(i): float(ms[name][i]) for i in known})
                each[key].append(metrics.spearman(ms[name][rest], got.ms[rest]))
                if key == "other_chips":
                    inside = (got.low[rest] <= ms[name][rest]) & (ms[name][rest] <= got.high[rest])
                    each["inside"].append(float(np.mean(inside)))
        found[name] = {key: float(np.mean(values)) for key, values in each.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    done = Cells(args.out)
    rows = llm_rows()
    models = sorted({row["model"] for row in rows if row["device"] == "a100"})
    parts: list[Any] = [done.get(f"left out {model}", lambda model=model: left_out(rows, model)) for model in models]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    zero: Any = done.get("no a100", lambda: no_a100(rows))
    gpt: Any = {
        gpu: done.get(f"gpt2 {gpu} {args.seed}", lambda gpu=gpu: sub_networks(gpu, args.seed))
        for gpu in ("a100", "h100", "a40")
    }
    nas: Any = done.get(f"nasbench {args.seed}", lambda: cells_of_nasbench(args.seed))
    value = {
        "gemm_of_a_left_out_llm_mape": metrics.mape(joined["gemm"], joined["gemm_told"]),
        "layer_of_a_left_out_llm_mape": metrics.mape(joined["layer"], joined["layer_told"]),
        "no_a100_row_gemm_mape": zero["gemm"],
        "no_a100_row_layer_mape": zero["layer"],
        "no_a100_row_five_layers_mape": float(np.mean(zero["five"])),
        "gpt2_small": {
            gpu: {n: {key: float(np.mean(v)) for key, v in each.items()} for n, each in curve.items()}
            for gpu, curve in gpt.items()
        },
        "nasbench201_10_samples": {
            key: float(np.mean([each[key] for each in nas.values()])) for key in next(iter(nas.values()))
        },
        "nasbench201_by_setting": nas,
    }
    write_result(
        args.out,
        {
            "claim": "latency on networks and devices that were not seen, from public tables",
            "value": value,
            "unit": "MAPE in %; Spearman's and Kendall's coefficients; shares",
            "ci": None,
            "seeds": [args.seed],
            "baselines": {
                "gemm: datasheet roofline": 36.2,
                "gemm, layer: prototype": [6.2, 3.5],
                "nasbench201: HELP, six devices of its own, published": 0.932,
            },
        },
    )


if __name__ == "__main__":
    main()
