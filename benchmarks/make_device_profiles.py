"""Makes `predictors/devices/*.toml`: datasheet figures of `devices.csv`, efficiencies fitted on the tables of
`latency/`.

    python benchmarks/make_device_profiles.py [--out FOLDER]

`ARCHRANK_DATA` names the folder of the public tables (default `../shared/data`). Needs numpy only; the same
tables give the same files. What is fitted, per measured device:

- GEMMs: ms = max(flops / (e_c · peak), bytes / (e_b · bandwidth)) + overhead, the three by coordinate descent
  on a grid (0.01; 0.5 us) for the least mean |log(predicted / measured)|;
- 3 × 3 convolutions: the median of flops / (peak · ms), against direct convolution's flops (Winograd goes
  above 1);
- row-wise ops: the median of bytes / (bandwidth · (ms − floor)) over large ones, floor = the time of the
  smallest.

The fp16 tables are kernel times of a serving stack, those in fp32 of eager PyTorch, whose floor of 25-50 us a
launch is the host's: it is used in the fit but not taken over, so that devices stay comparable.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Row = dict[str, str]
DATA = Path(os.environ.get("ARCHRANK_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
OUT = Path(__file__).resolve().parents[1] / "predictors" / "devices"

SPEC = {
    "sm_count": "sm_count",
    "boost_clock_mhz": "boost_clock_mhz",
    "memory_bytes": "mem_bytes",
    "memory_bandwidth_bytes_per_s": "mem_bandwidth_bytes_per_s",
    "l2_bytes": "l2_bytes",
    "smem_per_sm_bytes": "smem_per_sm_bytes",
    "tdp_w": "tdp_w",
}
PEAKS = {
    **{name: f"peak_{name}_flops_per_s" for name in ("fp32", "tf32", "fp16", "bf16", "fp8")},
    "int8": "peak_int8_ops_per_s",
}
ALIASES = {
    "A100-80GB SXM": ["a100", "a100-80gb", "a100-sxm"],
    "A100-40GB SXM": ["a100-40gb"],
    "A100-80GB PCIe": ["a100-pcie"],
    "H100 SXM5": ["h100", "h100-sxm"],
    "H200 SXM": ["h200"],
    "V100-16GB SXM2": ["v100", "v100-16gb", "v100-sxm2"],
    "V100-32GB SXM2": ["v100-32gb"],
    "RTX A6000": ["a6000"],
    "P100 PCIe": ["p100"],
    "RTX 2080 Ti": ["2080ti", "rtx2080ti"],
    "RTX 3080": ["3080", "rtx3080"],
    "RTX 3090": ["3090", "rtx3090"],
    "RTX 4090": ["4090", "rtx4090"],
    "GTX 1080 Ti": ["1080ti", "gtx1080ti"],
    "Jetson AGX Orin 64GB": ["orin", "agx-orin"],
}
FP16 = {"a100": "A100-80GB SXM", "h100": "H100 SXM5", "a40": "A40"}
FP32 = {
    "NVIDIA A100-PCIE-40GB": "A100-40GB PCIe",
    "NVIDIA A100 80GB PCIe": "A100-80GB PCIe",
    "NVIDIA H100 80GB HBM3": "H100 SXM5",
    "NVIDIA L4": "L4",
    "Tesla V100-PCIE-32GB": "V100 PCIe",
    "Tesla T4": "T4",
    "Tesla P100-PCIE-16GB": "P100 PCIe",
    "Tesla P4": "P4",
}
# whose fit a device borrows (low precision, fp32): itself or the nearest measured one of its architecture
BORROWS = {
    "A100": ("A100-80GB SXM", "A100-40GB PCIe"),
    "H100": ("H100 SXM5", "H100 SXM5"),
    "H200": ("H100 SXM5", "H100 SXM5"),
    "B200": ("", ""),
    "V100": ("", "V100 PCIe"),
    "T4": ("", "T4"),
    "RTX 2080": ("", "T4"),
    "L4": ("", "L4"),
    "RTX 4090": ("", "L4"),
    "A10": ("A40", ""),
    "A40": ("A40", ""),
    "RTX A6000": ("A40", ""),
    "RTX 30": ("A40", ""),
    "Jetson": ("A40", ""),
    "P100": ("", "P100 PCIe"),
    "P4": ("", "P4"),
    "GTX 1080": ("", "P4"),
    "MI300X": ("", ""),
}
VIDUR = "microsoft/vidur @7d475133 (latency/llm_ops_fp16.csv.gz)"
NEUSIGHT = "sitar-lab/NeuSight @6945927d (latency/ops_fp32_*.csv.gz)"


@dataclass(frozen=True)
class Fit:
    """Constants of one profile; the defaults are what unmeasured devices get: rounded middles of the measured
    ones.
    """

    compute: Mapping[str, float]
    bandwidth: Mapping[str, float]
    launch: Mapping[str, float]
    errors: tuple[float, ...] = ()


DEFAULT = Fit(
    compute={
        "matmul_fp32": 0.75,
        "matmul_low": 0.65,
        "conv3x3_fp32": 0.75,
        "conv3x3_low": 0.5,
        "attention": 0.5,
    },
    bandwidth={
        "matmul": 0.75,
        "conv": 0.6,
        "attention": 0.7,
        "norm": 0.5,
        "softmax": 0.55,
        "activation": 0.65,
        "elementwise": 0.75,
        "embedding": 0.3,
    },
    launch={"matmul_us": 7.0, "other_us": 4.0},
)


def rows_of(name: str) -> list[Row]:
    """The rows of a table of the data folder, plain or gzipped."""
    path = DATA / name
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8", newline="") as packed:
            return list(csv.DictReader(packed))
    with path.open(encoding="utf-8", newline="") as plain:
        return list(csv.DictReader(plain))


def column(rows: Sequence[Row], name: str) -> Array:
    return np.array([float(row[name]) for row in rows])


def log_error(predicted: Array, measured: Array) -> Array:
    return np.abs(np.log(predicted / measured))


def fit_gemm(compute_ms: Array, memory_ms: Array, measured: Array) -> tuple[float, float, float]:
    """(compute efficiency, bandwidth efficiency, overhead in us) of `ms = max(c / e_c, m / e_b) + o`, by
    coordinate descent.
    """
    shares = np.arange(0.05, 1.001, 0.01)
    floors = np.arange(0.0, 1e3 * float(np.percentile(measured, 5)) + 0.5, 0.5)
    ec, eb, us = 0.7, 0.7, 5.0
    for _ in range(8):
        before = (ec, eb, us)
        ec = _best(shares, [np.maximum(compute_ms / x, memory_ms / eb) + 1e-3 * us for x in shares], measured)
        eb = _best(shares, [np.maximum(compute_ms / ec, memory_ms / x) + 1e-3 * us for x in shares], measured)
        us = _best(floors, [np.maximum(compute_ms / ec, memory_ms / eb) + 1e-3 * x for x in floors], measured)
        if before == (ec, eb, us):
            break
    return round(ec, 2), round(eb, 2), round(us, 1)


def _best(grid: Array, predicted: Sequence[Array], measured: Array) -> float:
    return float(grid[int(np.argmin([log_error(each, measured).mean() for each in predicted]))])


def fit_rowwise(memory_ms: Array, measured: Array) -> tuple[float, float]:
    """(bandwidth efficiency, floor in us) of a row-wise op: see the module."""
    floor = float(np.percentile(measured, 2))
    large = memory_ms > max(float(np.percentile(memory_ms, 60)), 5 * floor)
    if not large.any():
        return 0.0, round(1e3 * floor, 1)
    share = float(np.median(memory_ms[large] / np.maximum(measured[large] - floor, 1e-6)))
    return round(min(share, 1.0), 2), round(1e3 * floor, 1)


def fit_fp16(name: str, rows: Sequence[Row], device: Row) -> Fit:
    """The low-precision constants of a device of the serving stack's table, at token counts even on a log
    scale.
    """
    peak, bandwidth = float(device["peak_fp16_flops_per_s"]), float(device["mem_bandwidth_bytes_per_s"])
    mine = [row for row in rows if row["device"] == name]
    tokens = np.unique(column(mine, "M"))
    even = {int(tokens[np.abs(np.log(tokens / wanted)).argmin()]) for wanted in np.geomspace(1, tokens.max(), 60)}
    gemm = [row for row in mine if row["op"].endswith("_proj") and int(row["M"]) in even]
    m, n, k, ms = (column(gemm, c) for c in ("M", "N", "K", "ms_median"))
    compute, memory = 2e3 * m * n * k / peak, 2e3 * (m * k + k * n + m * n) / bandwidth
    ec, eb, us = fit_gemm(compute, memory, ms)
    predicted = np.maximum(compute / ec, memory / eb) + 1e-3 * us
    kinds = {
        "norm": ("input_layernorm", 2),
        "activation": ("mlp_act", 3),
        "elementwise": ("add", 3),
        "embedding": ("emb", 2),
    }
    shares, floors = {"matmul": eb}, []
    for kind, (op, arrays) in kinds.items():
        some = [row for row in mine if row["op"] == op and not (op == "mlp_act" and row["K"] == "1")]
        share, floor = fit_rowwise(
            2e3 * arrays * column(some, "M") * column(some, "N") / bandwidth, column(some, "ms_median")
        )
        shares.update({kind: share} if share else {})
        floors.append(floor)
    return replace(
        DEFAULT,
        compute={"matmul_low": ec},
        bandwidth=shares,
        launch={"matmul_us": us, "other_us": round(float(np.median(floors)), 1)},
        errors=tuple(log_error(predicted, ms)),
    )


def fit_fp32(name: str, tables: Mapping[str, Sequence[Row]], device: Row) -> Fit:
    """The fp32 constants of a device of the eager tables."""
    peak, bandwidth = float(device["peak_fp32_flops_per_s"]), float(device["mem_bandwidth_bytes_per_s"])
    gemm = [row for row in tables["matmul"] if row["device"] == name][::9]
    b, m, n, k, ms = (column(gemm, c) for c in ("B", "M", "N", "K", "ms"))
    compute, memory = 2e3 * b * m * n * k / peak, 4e3 * b * (m * k + k * n + m * n) / bandwidth
    ec, eb, us = fit_gemm(compute, memory, ms)
    efficiency, shares = {"matmul_fp32": ec}, {"matmul": eb}
    for kind, op, arrays in (
        ("norm", "ln", 2),
        ("softmax", "softmax", 2),
        ("activation", "gelu", 2),
        ("elementwise", "add", 3),
    ):
        some = [row for row in tables["rowwise"] if row["device"] == name and row["op"] == op]
        if some:
            share, _ = fit_rowwise(4e3 * arrays * column(some, "B") * column(some, "H") / bandwidth, column(some, "ms"))
            shares.update({kind: share} if share else {})
    conv = [row for row in tables["conv"] if row["device"] == name]
    if conv:
        flops = 18 * np.prod([column(conv, c) for c in ("B", "Input_Channel", "Output_Channel")], axis=0)
        flops = flops * column(conv, "Input_Size") ** 2
        large = flops > np.median(flops)
        efficiency["conv3x3_fp32"] = round(float(np.median((1e3 * flops / peak / column(conv, "ms"))[large])), 2)
    predicted = np.maximum(compute / ec, memory / eb) + 1e-3 * us
    return replace(DEFAULT, compute=efficiency, bandwidth=shares, launch={}, errors=tuple(log_error(predicted, ms)))


def fits(devices: Mapping[str, Row]) -> tuple[dict[str, Fit], dict[str, Fit]]:
    """Fits by device name: low precision, fp32."""
    serving = rows_of("latency/llm_ops_fp16.csv.gz")
    eager = {kind: rows_of(f"latency/ops_fp32_{kind}.csv.gz") for kind in ("matmul", "rowwise", "conv")}
    low = {device: fit_fp16(name, serving, devices[device]) for name, device in FP16.items()}
    full = {device: fit_fp32(name, eager, devices[device]) for name, device in FP32.items()}
    return low, full


@dataclass(frozen=True)
class Constants:
    """A profile's fitted part: the constants, where they and the launch overheads come from, the interval's
    factors.
    """

    fit: Fit
    source: str
    launch_source: str
    interval: Mapping[str, float]


def combined(device: Row, low: Mapping[str, Fit], full: Mapping[str, Fit]) -> Constants:
    """Measured on the device where there is a table, else borrowed within its architecture, else default."""
    lenders = next(lend for start, lend in BORROWS.items() if device["name"].startswith(start))
    lender = {"low": lenders[0], "fp32": device["name"] if device["name"] in full else lenders[1]}
    got, said, interval = DEFAULT, [], {"fp32": 2.0, "low": 2.0}
    launch = f"default: rounded from the A100's floors in {VIDUR}"
    for kind, given, table in (("fp32", full, NEUSIGHT), ("low", low, VIDUR)):
        if not lender[kind]:
            continue
        fit, own = given[lender[kind]], lender[kind] == device["name"]
        got = Fit({**got.compute, **fit.compute}, {**got.bandwidth, **fit.bandwidth}, {**got.launch, **fit.launch})
        of = "this device" if own else f"{lender[kind]} and borrowed"
        said.append(f"{'fp32' if kind == 'fp32' else 'fp16 and lower'}: fitted on {of}, {table}")
        if kind == "low":
            launch = f"fitted on {of}, {table}"
        residual = float(np.exp(np.percentile(fit.errors, 90)))
        interval[kind] = round(max(1.35, residual) * (1 if own else 1.2), 2)
    said.append("the rest: unmeasured defaults, rounded middles of the measured devices")
    return Constants(got, "; ".join(said), launch, interval)


def slug(name: str) -> str:
    """`A100-80GB SXM` -> `a100-80gb-sxm`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def toml(device: Row, constants: Constants) -> str:
    """The text of one profile."""
    unconfirmed = re.findall(r"peak_(\w+?)_(?:fl)?ops_per_s", device["confirmed"])
    stack = "fp16 and bf16: kernel times of a serving stack (vLLM's kernels); fp32: eager PyTorch"
    text = {
        "name": device["name"],
        "vendor": device["vendor"],
        "architecture": device["architecture"],
        "compute_capability": device["compute_capability"],
        "kind": device.get("kind", "gpu"),
        "stack": device.get("stack", stack),
    }
    head = [
        "# Made by benchmarks/make_device_profiles.py from devices.csv and the latency tables; edit that.",
        "schema = 1",
    ]
    head += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in text.items()]
    head += [f"aliases = {json.dumps(ALIASES.get(device['name'], []))}"]
    head += [f"unconfirmed = {json.dumps(unconfirmed)}  # peaks that rest on no opened source"]
    sections = {
        "spec": {key: device[name] for key, name in SPEC.items()},
        "peak_ops_per_s": {key: device[name] for key, name in PEAKS.items() if device[name]},
        "compute_efficiency": constants.fit.compute,
        "bandwidth_efficiency": constants.fit.bandwidth,
        "launch": constants.fit.launch,
        "interval": constants.interval,
    }
    spread = (
        "exp of the 90th percentile of the GEMM fit's |log error|, at least 1.35 ("
        "another software stack was 21 % off); 1.2 times as wide where borrowed, 2 where unmeasured"
    )
    sources = {
        **dict.fromkeys(("spec", "peak_ops_per_s"), device["source"]),
        **dict.fromkeys(("compute_efficiency", "bandwidth_efficiency"), constants.source),
        "launch": constants.launch_source,
        "interval": device.get("interval", spread),
    }
    body = [
        f"\n[{name}]\n" + "\n".join(f"{key} = {value}" for key, value in table.items())
        for name, table in sections.items()
    ]
    body += [
        "\n[sources]\n"
        + "\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in sources.items())
    ]
    return "\n".join([*head, *body]) + "\n"


def profiles() -> dict[str, str]:
    """Every profile's text by file name."""
    devices = {row["name"]: row for row in rows_of("devices.csv")}
    low, full = fits(devices)
    return {f"{slug(name)}.toml": toml(row, combined(row, low, full)) for name, row in devices.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out: Path = parser.parse_args().out
    for name, text in profiles().items():
        (out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
