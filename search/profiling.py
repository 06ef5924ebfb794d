"""`search profile`: an op table of the machine at hand, and the device profile that it gives.

    peak      = 1.05 × the best rate of any product        bandwidth = 1.05 × the best rate of a large copy
    launch    = the time of an op over next to nothing       noise     = the median spread of the repeats
    e_c, e_b  = constants of ms = max(flops / (e_c · peak), bytes / (e_b · bandwidth)) + launch, a kind of op each

Peaks are measured ones, 5 % above what was reached, so that the bound holds; the interval is exp of the 90 % quantile
of |log error| of the table, at least 1.1.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F

from archrank.grammar.workload import FORMS, completed, dtype_bytes
from archrank.predictors import Profile
from archrank.search.kits.measure import set_precision
from archrank.search.measuring import best_device, timed, torch_dtype

__all__ = ["Row", "cases", "measure", "profile"]

ABOVE = 1.05
LEAST_INTERVAL = 1.1


@dataclass(frozen=True)
class Row:
    """One measured op: its sizes, dtype, the median ms, and (largest − smallest) / median of the repeats."""

    op: str
    dims: Mapping[str, int]
    dtype: str
    ms: float
    spread: float

    @property
    def flops(self) -> float:
        """2 × multiply-adds."""
        return float(FORMS[self.op].flops(self.dims))

    @property
    def bytes(self) -> float:
        """Each operand read once, each result written once."""
        form = FORMS[self.op]
        return float(
            dtype_bytes(self.dtype) * (form.weights(self.dims) + form.reads(self.dims) + form.writes(self.dims))
        )


@dataclass(frozen=True)
class Case:
    """An op to be timed."""

    op: str
    dims: Mapping[str, int]
    dtype: str


def cases(dtypes: tuple[str, ...], kind: str) -> list[Case]:
    """The op table: products of three shapes, row-wise ops, a convolution and attention, small and large."""
    large = 4096 if kind == "gpu" else 1024
    found = []
    for dtype in dtypes:
        for m in (1, 16, 128, 512, large):
            for n, k in ((256, 256), (1024, 1024), (large, 512), (512, large)):
                found.append(Case("linear", {"m": m, "n": n, "k": k}, dtype))
        found += [Case("bmm", {"b": 12, "m": s, "n": s, "k": 64}, dtype) for s in (64, 256, 512)]
        for m, n in ((1, 8), (64, 768), (1024, 768), (large, 4096)):
            found += [Case(op, {"m": m, "n": n}, dtype) for op in ("layer_norm", "softmax", "gelu", "add", "embedding")]
        for c, h in ((16, 32), (64, 32), (128, 14)):
            found.append(
                Case("conv2d", {"b": 8, "c_in": c, "c_out": c, "h": h, "w": h, "kernel": 3, "padding": 1}, dtype)
            )
        for q in (128, 512):
            found.append(Case("attention", {"b": 2, "heads": 12, "q": q, "kv": q, "d": 64}, dtype))
    return found


def measure(case: Case, where: torch.device) -> Row:
    """Times one op with random operands."""
    set_precision(case.dtype)
    ms = sorted(timed(_work(case, where), where))
    middle = ms[len(ms) // 2]
    dims = {name: int(size) for name, size in completed(case.op, case.dims).items()}
    return Row(case.op, MappingProxyType(dims), case.dtype, middle, (ms[-1] - ms[0]) / middle)


def _work(case: Case, where: torch.device) -> Callable[[], object]:
    d, kind = case.dims, torch_dtype(case.dtype)

    def full(*shape: int) -> torch.Tensor:
        return torch.rand(shape, device=where).to(kind)

    if case.op == "linear":
        x, w = full(d["m"], d["k"]), full(d["n"], d["k"])
        return lambda: F.linear(x, w)
    if case.op == "bmm":
        a, b = full(d["b"], d["m"], d["k"]), full(d["b"], d["k"], d["n"])
        return lambda: torch.bmm(a, b)
    if case.op == "conv2d":
        image, filters = full(d["b"], d["c_in"], d["h"], d["w"]), full(d["c_out"], d["c_in"], d["kernel"], d["kernel"])
        return lambda: F.conv2d(image, filters, padding=d["padding"])
    if case.op == "attention":
        q, k, v = (full(d["b"], d["heads"], d["q"], d["d"]) for _ in range(3))
        return lambda: F.scaled_dot_product_attention(q, k, v)
    x = full(d["m"], d["n"])
    if case.op == "embedding":
        table, index = full(1000, d["n"]), torch.arange(d["m"], device=where) % 1000
        return lambda: F.embedding(index, table)
    row: Mapping[str, Callable[[], object]] = {
        "layer_norm": lambda: F.layer_norm(x, (d["n"],)),
        "softmax": lambda: F.softmax(x, -1),
        "gelu": lambda: F.gelu(x),
        "add": lambda: x + x,
    }
    return row[case.op]


def profile(rows: list[Row], where: torch.device, name: str | None = None) -> Profile:
    """The device profile of a table (formulas above)."""
    products = [row for row in rows if row.op in ("linear", "bmm")]
    peaks = {}
    for dtype in dict.fromkeys(row.dtype for row in rows):
        peaks[dtype] = ABOVE * max(1e3 * row.flops / row.ms for row in rows if row.dtype == dtype and row.flops)
    peaks.setdefault("fp32", max(peaks.values()))
    elementwise = [row for row in rows if not row.flops]
    bandwidth = ABOVE * max(1e3 * row.bytes / row.ms for row in elementwise if row.bytes > 1e6)
    bandwidth = max(
        bandwidth, ABOVE * max(1e3 * FORMS[r.op].weights(r.dims) * dtype_bytes(r.dtype) / r.ms for r in products)
    )
    matmul_us = 1e3 * min(row.ms for row in products)
    other_us = 1e3 * min(row.ms for row in elementwise)
    spec = {**_spec(where), "memory_bandwidth_bytes_per_s": bandwidth}
    compute = {
        "matmul_fp32": _share(products, peaks, ("fp32",), matmul_us),
        "matmul_low": _share(products, peaks, ("bf16", "fp16"), matmul_us),
        "conv3x3_fp32": _share([r for r in rows if r.op == "conv2d"], peaks, ("fp32",), matmul_us),
        "conv3x3_low": _share([r for r in rows if r.op == "conv2d"], peaks, ("bf16", "fp16"), matmul_us),
        "attention": _share([r for r in rows if r.op == "attention"], peaks, tuple(peaks), matmul_us),
    }
    moved = {"matmul": 0.8, "conv": 0.8, "attention": 0.8}
    kinds = {
        "norm": "layer_norm",
        "softmax": "softmax",
        "activation": "gelu",
        "elementwise": "add",
        "embedding": "embedding",
    }
    for kind, op in kinds.items():
        found = [
            1e3 * r.bytes / bandwidth / max(r.ms - 1e-3 * other_us, 1e-6) for r in rows if r.op == op and r.bytes > 1e6
        ]
        moved[kind] = float(np.clip(np.median(found), 0.01, 1.0))
    noise = float(np.median([row.spread for row in rows]))
    return _profile(rows, where, name, spec, peaks, compute, moved, matmul_us, other_us, noise)


def _profile(
    rows: list[Row],
    where: torch.device,
    name: str | None,
    spec: Mapping[str, float],
    peaks: Mapping[str, float],
    compute: Mapping[str, float],
    moved: Mapping[str, float],
    matmul_us: float,
    other_us: float,
    noise: float,
) -> Profile:
    from archrank.predictors import Device

    said = f"measured here, {len(rows)} ops, median of 7; noise {100 * noise:.1f} % (median spread of the repeats)"
    gpu = where.type == "cuda"
    plain = Profile(
        name=name or _chip(where),
        vendor="NVIDIA" if gpu else platform.machine(),
        architecture="measured",
        compute_capability=".".join(map(str, torch.cuda.get_device_capability(where))) if gpu else "",
        kind="gpu" if gpu else "cpu",
        stack=f"eager PyTorch {torch.__version__}, {torch.get_num_threads()} thread(s)",
        aliases=(),
        unconfirmed=tuple(peaks),
        spec=spec,
        peak_ops_per_s={key: float(value) for key, value in peaks.items()},
        compute_efficiency=compute,
        bandwidth_efficiency=moved,
        launch={"matmul_us": matmul_us, "other_us": other_us},
        interval={"fp32": 1.5, "low": 1.5},
        sources={
            "spec": "the operating system and torch; bandwidth measured; tdp_w and, on a CPU, the clock unknown: 1",
            "peak_ops_per_s": f"1.05 times the best rate reached; {said}",
            "compute_efficiency": said,
            "bandwidth_efficiency": f"{said}; matmul, conv and attention: 0.8, a guess",
            "launch": f"the quickest op; {said}",
            "interval": "exp of the 90 % quantile of |log error| over the table, at least 1.1",
        },
        prices="roofline",
    )
    device = Device(plain)
    errors: dict[str, list[float]] = {"fp32": [], "low": []}
    for row in rows:
        told = float(np.asarray(device.op_ms(row.op, dtype=row.dtype, **row.dims)))
        errors["fp32" if row.dtype == "fp32" else "low"].append(abs(np.log(told / row.ms)))
    every = [error for some in errors.values() for error in some]
    width = {k: min(20.0, max(LEAST_INTERVAL, float(np.exp(np.quantile(v or every, 0.9))))) for k, v in errors.items()}
    return Profile(**{**{f: getattr(plain, f) for f in plain.__dataclass_fields__}, "interval": width})


def _share(rows: list[Row], peaks: Mapping[str, float], dtypes: tuple[str, ...], overhead_us: float) -> float:
    """Median share of the peak that the larger half reaches; 0.5 where none was timed."""
    mine = [row for row in rows if row.dtype in dtypes]
    large = sorted(mine, key=lambda row: row.flops)[len(mine) // 2 :]
    shares = [1e3 * row.flops / peaks[row.dtype] / max(row.ms - 1e-3 * overhead_us, 1e-6) for row in large]
    return float(np.clip(np.median(shares), 0.01, 4.0)) if shares else 0.5


def _spec(where: torch.device) -> dict[str, float]:
    if where.type == "cuda":
        found = torch.cuda.get_device_properties(where)
        return {
            "sm_count": float(found.multi_processor_count),
            "boost_clock_mhz": 1.0,
            "memory_bytes": float(found.total_memory),
            "l2_bytes": float(getattr(found, "L2_cache_size", 2**22)),
            "smem_per_sm_bytes": float(getattr(found, "shared_memory_per_multiprocessor", 2**16)),
            "tdp_w": 1.0,
        }
    return {
        "sm_count": float(os.cpu_count() or 1),
        "boost_clock_mhz": 1.0,
        "memory_bytes": float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "l2_bytes": _cache(3, 2**23),
        "smem_per_sm_bytes": _cache(0, 2**15),
        "tdp_w": 1.0,
    }


def _cache(index: int, otherwise: int) -> float:
    """Bytes of a CPU's cache where Linux tells, else a usual size."""
    file = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size")
    try:
        text = file.read_text().strip()
        return float(text.rstrip("KM")) * {"K": 2**10, "M": 2**20}.get(text[-1], 1)
    except (OSError, ValueError, IndexError):
        return float(otherwise)


def _chip(where: torch.device) -> str:
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def here() -> torch.device:
    """The device that is profiled."""
    return best_device()
