"""Regression on the public tables: what the predictors reach on networks and devices they have not seen."""

from __future__ import annotations

import csv
import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from archrank import predictors, spaces
from archrank.grammar.workload import Workload
from archrank.predictors import metrics

pytestmark = pytest.mark.shared_data
Array = NDArray[np.float64]
GEMM = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
Row = dict[str, str]


def table(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as packed:
        return list(csv.DictReader(packed))


@pytest.fixture(scope="module")
def gpt(shared_data: Path) -> tuple[list[Workload], Array]:
    """Every fifth sub-network of the GPT-2-small supernet at batch 8, and its ms on an A100."""
    file = shared_data / "latency" / "gpt2_small_subnets.csv.gz"
    space = spaces.load("gpt2_elastic")
    texts = spaces.read_table("gpt2_elastic", file)[::5]
    works = [space.elaborate(space.parse(text)).workload(8) for text in texts]
    return works, np.array([float(row["a100_med"]) for row in table(file)[::5]])


def test_sub_networks_by_how_many_were_measured(gpt: tuple[list[Workload], Array]) -> None:
    works, ms = gpt
    device = predictors.load("a100")
    assert metrics.mape(ms, device.predict(works, "bf16").ms) <= 15
    for count, most, draws in ((1, 4.2, 8), (5, 3.0, 8), (10, 1.0, 8), (20, 0.36, 8), (50, 0.27, 20)):
        errors, inside, rhos = [], [], []
        for seed in range(draws):
            order = np.random.default_rng(100 + seed).permutation(len(ms))
            known, rest = order[:count].tolist(), order[count:].tolist()
            fitted = device.calibrated([works[i] for i in known], ms[known], "bf16")
            told = fitted.predict([works[i] for i in rest], "bf16")
            errors.append(metrics.mape(ms[rest], told.ms))
            inside.append(float(np.mean((told.low <= ms[rest]) & (ms[rest] <= told.high))))
            rhos.append(metrics.spearman(ms[rest], told.ms))
        assert np.mean(errors) <= most, (count, np.mean(errors))
        if count == 20:
            assert np.mean(rhos) >= 0.9998
        if count == 50:
            assert 0.87 <= np.mean(inside) <= 0.93, np.mean(inside)


def test_a_device_without_a_row(shared_data: Path, tmp_path: Path) -> None:
    rows = table(shared_data / "latency" / "llm_ops_fp16.csv.gz")
    tokens = np.unique([int(row["M"]) for row in rows])
    wanted = np.geomspace(1, tokens[-1], 40)
    kept = set(tokens[np.abs(np.log(tokens[:, None] / wanted)).argmin(axis=0)].tolist())
    rows = [row for row in rows if int(row["M"]) in kept]
    others = [row for row in rows if row["device"] != "a100"]
    file = tmp_path / "others.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(others)
    device = predictors.fit([file]).load("a100")
    mine = [row for row in rows if row["device"] == "a100"]
    products = [row for row in mine if row["op"] in GEMM]
    m, n, k, ms = (np.array([float(row[c]) for row in products]) for c in ("M", "N", "K", "ms_median"))
    assert metrics.mape(ms, np.asarray(device.op_ms("linear", m=m, n=n, k=k, dtype="fp16"))) <= 7.7
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in mine:
        groups.setdefault((row["model"], row["M"], row["tp"]), []).append(row)
    layers = [group for group in groups.values() if len({row["op"] for row in group}) == len(group)]
    works = [predictors.workload([{c: row[c] for c in ("op", "M", "N", "K")} for row in group]) for group in layers]
    total = np.array([sum(float(row["ms_median"]) for row in group) for group in layers])
    assert metrics.mape(total, device.predict(works, "fp16").ms) <= 8.0


def test_transfer_to_an_unseen_device(shared_data: Path) -> None:
    rows = [row for row in table(shared_data / "nas" / "nasbench201.csv.gz") if float(row["c10_test"]) > 10.01]
    rows = [rows[i] for i in np.random.default_rng(0).choice(len(rows), 1500, replace=False)]
    ops = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    cells = [re.findall(r"\|?([a-z0-9_]+)~\d", row["arch"]) for row in rows]
    x = np.array([[float(o == p) for o in c for p in ops] + [float(c.count(p)) for p in ops] for c in cells])
    names = ("1080ti_1", "1080ti_32", "1080ti_256", "silver_4114", "samsung_a50", "pixel3", "samsung_s7")
    sources = np.array([[float(row[f"lat_{name}"]) for name in names] for row in rows])
    rhos = []
    for target in ("titan_rtx_256", "gold_6226", "fpga", "pixel2", "raspi4", "eyeriss"):
        ms = np.array([float(row[f"lat_{target}"]) for row in rows])
        for seed in range(2):
            known = np.random.default_rng(seed).choice(len(ms), 10, replace=False)
            rest = np.setdiff1d(np.arange(len(ms)), known)
            told = predictors.transfer(x, sources, {int(i): float(ms[i]) for i in known})
            rhos.append(metrics.spearman(ms[rest], told.ms[rest]))
    assert np.mean(rhos) >= 0.92


def test_the_shipped_constants_are_what_fit_makes(shared_data: Path) -> None:
    again = predictors.fit([shared_data / "latency" / "llm_ops_fp16.csv.gz"]).load("a100")
    sizes = {"m": np.array([1, 64, 512, 4096]), "n": 4096, "k": np.array([[1024], [4096]])}
    shipped = np.asarray(predictors.load("a100").op_ms("linear", dtype="fp16", **sizes))  # type: ignore[arg-type]
    made = np.asarray(again.op_ms("linear", dtype="fp16", **sizes))  # type: ignore[arg-type]
    assert np.allclose(made, shipped, rtol=0.01)
