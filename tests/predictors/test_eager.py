"""The fp32 layer: what a table of eager ops teaches, who lends to whom, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from archrank import predictors
from archrank.predictors import DeviceError, eager

RNG = np.random.default_rng(0)
HEADER = {"product": ["device", "op", "ms", "B", "M", "N", "K"], "row": ["device", "op", "ms", "B", "H"]}


def product_rows(device: str, name: str, slower: float, count: int = 60) -> list[list[object]]:
    profile = predictors.load(name).profile
    found: list[list[object]] = []
    for m, n, k in RNG.choice([256, 512, 1024, 2048, 4096], (count, 3)).tolist():
        ms = slower * 2e3 * m * n * k / eager.sustained(profile) + 0.03
        found += [[device, op, ms, 1, m, n, k] for op in ("linear", "bmm")]
    return found


def norm_rows(device: str, name: str, share: float) -> list[list[object]]:
    bandwidth = predictors.load(name).profile.spec["memory_bandwidth_bytes_per_s"]
    sizes = RNG.choice([1024, 4096, 16384, 65536], (60, 2)).tolist()
    return [[device, "ln", 8e3 * m * n / (bandwidth * share) + 0.03, m, n] for m, n in sizes]


def write(path: Path, kind: str, rows: list[list[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER[kind], *rows])
    return path


def at(device: predictors.Device, op: str, **sizes: int) -> float:
    return float(np.asarray(device.op_ms(op, dtype="fp32", **sizes)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> predictors.Fitted:
    folder = tmp_path_factory.mktemp("tables")
    products = product_rows("Tesla T4", "t4", 1.5) + product_rows("NVIDIA A100-PCIE-40GB", "a100-40gb-pcie", 1.2)
    norms = norm_rows("Tesla T4", "t4", 0.5) + norm_rows("NVIDIA A100-PCIE-40GB", "a100-40gb-pcie", 0.75)
    return predictors.fit([write(folder / "p.csv", "product", products), write(folder / "r.csv", "row", norms)])


def test_a_device_learns_from_its_rows(fitted: predictors.Fitted) -> None:
    for name, slower in (("t4", 1.5), ("a100-40gb-pcie", 1.2)):
        device = fitted.load(name)
        exact = slower * 2e3 * 4096**3 / eager.sustained(device.profile)
        assert at(device, "linear", m=4096, n=4096, k=4096) == pytest.approx(exact, rel=0.15)
    assert fitted.learned.tables == ("p.csv", "r.csv")
    told = fitted.load("t4").predict([predictors.workload([{"op": "mlp_up_proj", "M": 64, "N": 64, "K": 64}])], "fp32")
    assert not told.notes


def test_a_device_without_rows_borrows(fitted: predictors.Fitted) -> None:
    """An A100 of more memory from the other A100; an L4's norms from the chip with as much cache."""
    big = {"m": 65536, "n": 4096}
    other = fitted.load("a100-80gb-pcie")
    bandwidth = other.profile.spec["memory_bandwidth_bytes_per_s"]
    assert at(other, "layer_norm", **big) == pytest.approx(8e3 * 65536 * 4096 / (bandwidth * 0.75), rel=0.1)
    l4 = fitted.load("l4")
    share = 8e3 * 65536 * 4096 / l4.profile.spec["memory_bandwidth_bytes_per_s"] / at(l4, "layer_norm", **big)
    assert share == pytest.approx(0.75, rel=0.1)
    assert l4.predict([], "fp32").ms.shape == (0,)


def test_a_card_of_little_power_does_not_hold_its_clock() -> None:
    l4, a100 = (predictors.load(name).profile for name in ("l4", "a100"))
    assert eager.sustained(l4) == pytest.approx(0.6e12 * 72 / 4)
    assert eager.sustained(a100) == a100.peak("fp32")


def test_shipped_fp32_prices_are_above_the_bound_and_rise() -> None:
    for name in ("a100", "h100", "l4", "rtx-3090", "b200"):
        device = predictors.load(name)
        sizes = np.array([1, 8, 64, 512, 4096, 16384])
        for op, letters in (("linear", "mnk"), ("bmm", "bmnk"), ("softmax", "mn"), ("add", "mn")):
            for letter in letters:
                dims = {other: np.full(6, 128) for other in letters} | {letter: sizes}
                ms = np.asarray(device.op_ms(op, dtype="fp32", **dims))  # type: ignore[arg-type]
                assert np.all(np.diff(ms) >= 0), (name, op, letter)
                assert np.all(ms >= np.asarray(device.bound_ms(op, dtype="fp32", **dims)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["Tesla T4", "conv", 1, 1, 8, 8, 8], r"t\.csv:2: op = 'conv', but it must be one of ln, softmax"),
        (["Tesla T4", "linear", "fast", 1, 8, 8, 8], r"t\.csv:2: ms, B, M, N, K are numbers: could not convert"),
        (
            ["Tesla T4", "linear", -1, 1, 8, 8, 8],
            r"t\.csv:2: ms = -1, B = 1, .*but sizes are at least 1",
        ),
    ],
)
def test_a_wrong_row_is_named(row: list[object], said: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=said):
        predictors.fit([write(tmp_path / "t.csv", "product", [row])])


def test_another_unit_and_an_unknown_device(tmp_path: Path) -> None:
    rows = product_rows("Tesla T4", "t4", 1.5)
    for unit in (1e-3, 1e3):
        wrong = [[*row[:2], float(str(row[2])) * unit, *row[3:]] for row in rows]
        with pytest.raises(DeviceError, match=r"T4: large products take .* the column ms in another unit\?"):
            predictors.fit([write(tmp_path / "t.csv", "product", wrong)])
    with pytest.raises(DeviceError, match=r"unknown device 'Tesla T5'"):
        predictors.fit([write(tmp_path / "t.csv", "product", [["Tesla T5", *row[1:]] for row in rows])])
