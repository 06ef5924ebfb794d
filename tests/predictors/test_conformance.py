"""What every device profile must satisfy; a new TOML file is tested by being there."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from archrank import predictors
from archrank.grammar.workload import FORMS, OpCost, Workload
from archrank.predictors import Device
from archrank.predictors.profile import RANGES, SECTIONS

SIZES: dict[str, dict[str, float]] = {
    "linear": {"m": 96, "n": 256, "k": 512},
    "bmm": {"b": 12, "m": 96, "n": 64, "k": 96},
    "conv2d": {"b": 4, "c_in": 32, "c_out": 64, "h": 28, "w": 28, "kernel": 3, "padding": 1},
    "attention": {"b": 2, "heads": 8, "kv_heads": 2, "q": 128, "kv": 128, "d": 64},
    "lora": {"m": 96, "n": 256, "k": 512, "r": 8},
    "vllm_lora": {"m": 96, "n": 256, "k": 512, "bucket": 16},
    "other": {"flops": 1e6, "read": 1e5, "written": 1e5},
}
ROWWISE = {"m": 96.0, "n": 256.0}


@pytest.fixture(params=predictors.available())
def device(request: pytest.FixtureRequest) -> Device:
    return predictors.load(str(request.param))


def test_keys_units_and_ranges(device: Device) -> None:
    profile = device.profile
    for section, keys in SECTIONS.items():
        table, (low, high) = getattr(profile, section), RANGES[section]
        assert set(table) <= set(keys)
        assert all(low <= value <= high for value in table.values())
        assert profile.sources[section]
    assert profile.spec["memory_bytes"] > 2**32
    assert profile.spec["l2_bytes"] < profile.spec["memory_bytes"] / 16
    peaks = profile.peak_ops_per_s
    floats = [peaks[dtype] for dtype in ("fp32", "tf32", "fp16", "fp8") if dtype in peaks]
    assert floats == sorted(floats)
    assert device.dtypes == tuple(peaks)
    assert set(profile.unconfirmed) <= set(peaks)


@pytest.mark.parametrize("op", sorted(FORMS))
def test_more_work_never_takes_less_and_nothing_beats_the_bound(device: Device, op: str) -> None:
    sizes = SIZES.get(op, ROWWISE)
    scale = np.array([0.5, 1, 2, 3, 8, 64])
    for dtype in device.dtypes:
        if dtype in ("tf32", "int8"):
            continue
        for grown in sizes:
            if grown in ("kernel", "padding"):
                continue
            at = {**{n: np.full(6, s) for n, s in sizes.items()}, grown: np.maximum(1, sizes[grown] * scale)}
            ms, bound = device.op_ms(op, dtype=dtype, **at), device.bound_ms(op, dtype=dtype, **at)  # type: ignore[misc]
            doubled = np.asarray(ms)[[0, 1, 2, 4, 5]]
            assert np.all(np.diff(doubled) >= -0.004 * doubled[:-1]), (op, grown, dtype)
            assert np.all(np.diff(ms) >= -0.05 * np.asarray(ms)[:-1]), (op, grown, dtype)
            assert np.all(np.diff(bound) >= 0), (op, grown, dtype)
            assert np.all(ms >= bound)
            assert np.all(ms > 0)


def test_predictions_are_intervals_that_hold_the_bound(device: Device) -> None:
    costs = [OpCost.of(op, {n: int(s) for n, s in SIZES.get(op, ROWWISE).items()}, count=3) for op in FORMS]
    works = [Workload((cost,), weight_elements=10) for cost in costs] + [Workload(tuple(costs)), Workload()]
    told = device.predict(works, "fp32")
    assert told.ms.shape == told.low.shape == told.high.shape == told.memory_bytes.shape == (len(works),)
    assert np.all(told.low <= told.ms)
    assert np.all(told.ms <= told.high)
    assert np.all(told.low[:-1] > 0)
    assert told.ms[-2] == pytest.approx(told.ms[:-2].sum())
    for cost, ms in zip(costs, told.ms[:-2], strict=True):
        assert ms == pytest.approx(3 * float(device.op_ms(cost.op, dtype="fp32", **dict(cost.dims))))  # type: ignore[misc]


def test_the_summary_is_one_line_with_units(device: Device) -> None:
    stem = next(name for name in predictors.available() if predictors.load(name) == device)
    assert re.fullmatch(r"[^\n]+: \d+ GiB, \d+ GB/s, fp32[^\n]*", predictors.summary(stem))


@pytest.mark.shared_data
def test_every_device_of_the_table_is_there_with_its_figures(shared_data: Path) -> None:
    rows = list(csv.DictReader((shared_data / "devices.csv").read_text(encoding="utf-8").splitlines()))
    shipped = {predictors.load(name).name: predictors.load(name).profile for name in predictors.available()}
    assert {row["name"] for row in rows} == set(shipped) - {predictors.load("cpu").name}
    for row in rows:
        assert shipped[row["name"]].spec["memory_bandwidth_bytes_per_s"] == float(row["mem_bandwidth_bytes_per_s"])
        assert shipped[row["name"]].spec["memory_bytes"] == float(row["mem_bytes"])
        assert shipped[row["name"]].peak_ops_per_s["fp32"] == float(row["peak_fp32_flops_per_s"])
