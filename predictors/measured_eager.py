"""Tables of measured fp32 ops (the columns of sitar-lab/NeuSight's, as `latency/ops_fp32_*.csv.gz` have them).

Products: `device, op, ms, B, M, N, K` with op `linear` or `bmm`; row-wise ops: `device, op, ms, B, H`. Devices go by
the names that torch gives them, or ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from archrank.predictors import registry
from archrank.predictors.eager import PRODUCTS, Rows
from archrank.predictors.profile import DeviceError

__all__ = ["eager_rows"]

DEVICES = {
    "NVIDIA A100 80GB PCIe": "a100-80gb-pcie",
    "NVIDIA A100-PCIE-40GB": "a100-40gb-pcie",
    "NVIDIA H100 80GB HBM3": "h100-sxm5",
    "NVIDIA L4": "l4",
    "Tesla P100-PCIE-16GB": "p100-pcie",
    "Tesla P4": "p4",
    "Tesla T4": "t4",
    "Tesla V100-PCIE-32GB": "v100-pcie",
}
OPS = {"ln": "layer_norm", **{name: name for name in ("softmax", "gelu", "relu", "tanh", "add", "mul", *PRODUCTS)}}
"""Ours for each of the tables' that is fitted; `div`, `pow` and ops with a scalar (`addu`) move the bytes of these."""
KNOWN = (*OPS, "div", "pow", "addu", "mulu", "divu", "powu")
COLUMNS = ("device", "op", "ms", "B")
LETTERS = {"product": ("B", "M", "N", "K"), "row": ("B", "H")}
FEWEST = 20
"""Rows of an op on a device below which nothing is fitted to them."""


def eager_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> list[Rows]:
    """The rows by device and op; [] where the columns are others. DeviceError with file and line for an op or a number
    that is wrong, and for a device that is unknown.
    """
    kind = _kind(rows[0]) if rows else None
    if kind is None:
        return []
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for number, row in enumerate(rows, start=2):
        if row["op"] not in KNOWN:
            raise DeviceError(f"{path}:{number}: op = {row['op']!r}, but it must be one of {', '.join(KNOWN)}")
        if row["op"] in OPS:
            found.setdefault((row["device"], OPS[row["op"]]), []).append(_entry(path, number, row, LETTERS[kind]))
    tables = []
    for (device, op), entries in found.items():
        if len(entries) >= FEWEST:
            profile = registry.load(DEVICES.get(device, device)).profile
            table = np.array(entries)
            tables.append(_checked(path, Rows(profile, op, table[:, 1:], table[:, 0])))
    return tables


def _kind(row: Mapping[str, str]) -> str | None:
    for kind, letters in LETTERS.items():
        if set(COLUMNS) | set(letters) <= set(row):
            return kind
    return None


def _entry(path: Path, number: int, row: Mapping[str, str], letters: Sequence[str]) -> tuple[float, ...]:
    try:
        values = (float(row["ms"]), *(float(row[letter]) for letter in letters))
    except ValueError as error:
        raise DeviceError(f"{path}:{number}: ms, {', '.join(letters)} are numbers: {error}") from error
    if not (0 < values[0] < float("inf") and all(1 <= size < float("inf") for size in values[1:])):
        given = ", ".join(f"{name} = {row[name]}" for name in ("ms", *letters))
        raise DeviceError(f"{path}:{number}: {given}, but sizes are at least 1 and ms above 0, all finite")
    return values


def _checked(path: Path, rows: Rows) -> Rows:
    """Seconds look a thousand times faster than the bound allows, microseconds a thousand times slower."""
    if rows.op in PRODUCTS:
        flops = 2 * rows.sizes.prod(axis=1)
        large = flops > np.quantile(flops, 0.9)
        ratio = (
            float(np.median(rows.ms[large] * rows.profile.peak("fp32") / (1e3 * flops[large]))) if large.any() else 1
        )
        if not 0.9 <= ratio <= 200:
            raise DeviceError(
                f"{path}: {rows.profile.name}: large products take {ratio:.3g} times the bound of its datasheet: is "
                "the column ms in another unit? It takes milliseconds"
            )
    return rows
