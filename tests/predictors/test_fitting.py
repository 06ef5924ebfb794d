"""`fit`: learns from the table it is given, and says what is wrong with one."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from archrank import predictors
from archrank.predictors import DeviceError

A100 = predictors.load("a100")


def rows(factor: float = 1.0) -> list[dict[str, str]]:
    found = []
    for m in (1, 8, 64, 256, 1024, 4096, 8192):
        for n, k in ((1024, 4096), (4096, 4096), (8192, 2048), (4096, 11008)):
            ms = factor * float(A100.profile.launch["matmul_us"]) * 1e-3 + factor * 1.6 * float(
                np.asarray(A100.bound_ms("linear", m=m, n=n, k=k, dtype="fp16"))
            )
            found.append({"device": "a100", "op": "mlp_up_proj", "M": m, "N": n, "K": k, "ms_median": ms})
        for n in (1024, 2048, 4096, 8192):
            ms = factor * (0.004 + 6 * m * n / 1.2e12 * 1e3)
            found.append({"device": "a100", "op": "add", "M": m, "N": n, "K": 0, "ms_median": ms})
    return [{key: str(value) for key, value in row.items()} for row in found]


def write(path: Path, table: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(table[0]))
        out.writeheader()
        out.writerows(table)
    return path


def test_it_learns_from_the_table_it_is_given(tmp_path: Path) -> None:
    once = predictors.fit([write(tmp_path / "once.csv", rows())]).load("a100")
    twice = predictors.fit([write(tmp_path / "twice.csv", rows(2.0))]).load("a100")
    table = [row for row in rows() if row["op"] == "mlp_up_proj"]
    m, n, k, ms = (np.array([float(row[c]) for row in table]) for c in ("M", "N", "K", "ms_median"))
    told = np.asarray(once.op_ms("linear", m=m, n=n, k=k, dtype="fp16"))
    assert np.mean(np.abs(told / ms - 1)) < 0.08
    assert np.median(np.asarray(twice.op_ms("linear", m=m, n=n, k=k, dtype="fp16")) / told) == pytest.approx(
        2, rel=0.08
    )
    unseen = predictors.fit([tmp_path / "once.csv"]).load("h100")
    work = predictors.workload([{"op": "mlp_up_proj", "M": 64, "N": 4096, "K": 4096}])
    near, far = once.predict([work], "fp16"), unseen.predict([work], "fp16")
    assert far.high[0] / far.ms[0] > near.high[0] / near.ms[0]


def test_a_wrong_table_is_told(tmp_path: Path) -> None:
    def refused(change: dict[str, str], row: int = 0) -> str:
        table = rows()
        table[row].update(change)
        with pytest.raises(DeviceError) as caught:
            predictors.fit([write(tmp_path / "t.csv", table)])
        return str(caught.value)

    with pytest.raises(DeviceError, match=r"/nonexistent/table.csv: cannot be read: No such file or directory"):
        predictors.fit(["/nonexistent/table.csv"])
    with pytest.raises(DeviceError, match=r"no table was given"):
        predictors.fit([])
    with pytest.raises(DeviceError, match=r"no table of measured ops among .*one needs the columns device, op, M, N"):
        predictors.fit([write(tmp_path / "x.csv", [{"text": "a", "latency_ms": "1"}])])
    assert "t.csv:2: op = 'gemm', but it must be one of attn_pre_proj" in refused({"op": "gemm"})
    assert "t.csv:2: M, N, K or ms_median is no number" in refused({"M": "many"})
    assert "t.csv:2: M = 1, N = 1024, ms_median = -1, but each must be above 0" in refused({"ms_median": "-1"})
    assert "unknown device 'a1000': did you mean a100" in refused({"device": "a1000"})
    with pytest.raises(DeviceError, match=r"too few rows: no device has 20 of add"):
        predictors.fit([write(tmp_path / "few.csv", [r for r in rows() if r["op"] != "add"] + rows()[4:6])])


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_another_unit_is_caught_by_the_bound(factor: float, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"times the bound of its datasheet .* in another unit\? It takes millisec"):
        predictors.fit([write(tmp_path / "unit.csv", rows(factor))])
