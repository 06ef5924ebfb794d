"""The shipped constants against the public tables, and the profiles against what makes them."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from archrank import predictors

pytestmark = pytest.mark.shared_data
ROOT = Path(__file__).resolve().parents[2]


def _maker(data: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_device_profiles", ROOT / "benchmarks" / "make_device_profiles.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.DATA = data  # type: ignore[attr-defined]
    return module


def test_the_committed_profiles_are_what_the_script_makes(shared_data: Path) -> None:
    made: dict[str, str] = _maker(shared_data).profiles()
    assert {path.stem for path in map(Path, made)} == set(predictors.available()) - {"cpu"}  # measured
    for name, text in made.items():
        assert (ROOT / "predictors" / "devices" / name).read_text(encoding="utf-8") == text, name


@pytest.mark.parametrize(("name", "limit"), [("a100", 0.13), ("h100", 0.13), ("a40", 0.13)])
def test_fp16_gemms(shared_data: Path, name: str, limit: float) -> None:
    with gzip.open(shared_data / "latency" / "llm_ops_fp16.csv.gz", "rt", encoding="utf-8", newline="") as table:
        rows = [r for r in csv.DictReader(table) if r["device"] == name and r["op"].endswith("_proj")]
    m, n, k, median, least = (np.array([float(r[c]) for r in rows]) for c in ("M", "N", "K", "ms_median", "ms_min"))
    device = predictors.load(name)
    guess, bound = (np.asarray(f("linear", dtype="fp16", m=m, n=n, k=k)) for f in (device.op_ms, device.bound_ms))
    assert np.all(bound <= 1.01 * least)
    assert np.median(bound / least) > 0.5
    assert np.abs(guess / median - 1).mean() < limit
    wide = device.profile.interval["low"]
    assert np.mean((guess / wide <= median) & (median <= guess * wide)) > 0.9


def test_the_fp32_bound_holds_for_convolutions_and_products(shared_data: Path) -> None:
    names = {
        "NVIDIA A100-PCIE-40GB": "a100-40gb-pcie",
        "NVIDIA L4": "l4",
        "Tesla V100-PCIE-32GB": "v100-pcie",
    }
    with gzip.open(shared_data / "latency" / "ops_fp32_matmul.csv.gz", "rt", encoding="utf-8", newline="") as table:
        rows = [r for r in csv.DictReader(table) if r["device"] in names and r["op"] == "bmm"]
    for full, name in names.items():
        some = [r for r in rows if r["device"] == full]
        b, m, n, k, ms = (np.array([float(r[c]) for r in some]) for c in ("B", "M", "N", "K", "ms"))
        bound = np.asarray(predictors.load(name).bound_ms("bmm", dtype="fp32", b=b, m=m, n=n, k=k))
        assert np.all(bound <= 1.01 * ms), name
    with gzip.open(shared_data / "latency" / "ops_fp32_conv.csv.gz", "rt", encoding="utf-8", newline="") as table:
        conv = [r for r in csv.DictReader(table) if r["device"] == "Tesla V100-PCIE-32GB"]
    b, i, o, h, ms = (
        np.array([float(r[c]) for r in conv]) for c in ("B", "Input_Channel", "Output_Channel", "Input_Size", "ms")
    )
    bound = predictors.load("v100-pcie").bound_ms(
        "conv2d", dtype="fp32", b=b, c_in=i, c_out=o, h=h, w=h, kernel=3, padding=1
    )
    assert np.all(np.asarray(bound) <= ms)
