"""Tables of measured ops (the columns of microsoft/vidur's compute profiles), read and checked.

Columns `device, op, M, N, K, ms_median`: ops as `predictors.workload` names them, times in ms. Tables of other kinds
are left out here; those of fp32 ops are read by `measured_eager`.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archrank.predictors.profile import DeviceError
from archrank.predictors.table import KNOWN, op_of

Array = NDArray[np.float64]
COLUMNS = ("device", "op", "M", "N", "K", "ms_median")
TOKENS = 64
"""Token counts kept of a table, even on a log scale: more of them teach nothing new and take the time."""
_Key = tuple[str, str, int, int, int, str]
"""Device, op, M, N, K, and which of its network's ops: the same size in two networks counts twice."""


@dataclass(frozen=True)
class Ops:
    """Measured ops of one table: one entry a row, repeats replaced by their median. `op` our own names."""

    device: NDArray[np.str_]
    op: NDArray[np.str_]
    m: Array
    n: Array
    k: Array
    ms: Array

    def where(self, keep: NDArray[np.bool_]) -> Ops:
        """The rows that `keep` marks."""
        return Ops(self.device[keep], self.op[keep], self.m[keep], self.n[keep], self.k[keep], self.ms[keep])

    def __len__(self) -> int:
        return len(self.ms)


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a csv or csv.gz; `DeviceError` names the file that cannot be read."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8", newline="") as packed:
                return list(csv.DictReader(packed))
        with path.open(encoding="utf-8", newline="") as plain:
            return list(csv.DictReader(plain))
    except OSError as error:
        reason = error.strerror or str(error)
        raise DeviceError(f"{path}: cannot be read: {reason}. Give a table of measured ops (csv or csv.gz)") from error
    except UnicodeDecodeError as error:
        raise DeviceError(f"{path}: not a text table in UTF-8 ({error.reason} at byte {error.start})") from error


def ops(tables: Mapping[Path, Sequence[Mapping[str, str]]]) -> tuple[Ops, tuple[str, ...]]:
    """The measured ops of all tables together, and the names of the tables that hold any: both empty where none does.

    `DeviceError` where a figure is no positive number, or an op is unknown.
    """
    medians: dict[_Key, list[float]] = {}
    used = []
    for path, rows in tables.items():
        if not rows or not set(COLUMNS) <= set(rows[0]):
            continue
        used.append(path.name)
        for number, row in enumerate(rows, start=2):
            key, ms = _entry(path, number, row)
            medians.setdefault(key, []).append(ms)
    return _thinned(_table(medians)), tuple(used)


def _entry(path: Path, number: int, row: Mapping[str, str]) -> tuple[_Key, float]:
    name = row["op"]
    if name not in KNOWN:
        raise DeviceError(f"{path}:{number}: op = {name!r}, but it must be one of {', '.join(KNOWN)}")
    try:
        m, n, k, ms = int(float(row["M"])), int(float(row["N"])), int(float(row["K"] or 0)), float(row["ms_median"])
    except ValueError as error:
        raise DeviceError(f"{path}:{number}: M, N, K or ms_median is no number: {error}") from error
    if not (m >= 1 and n >= 1 and ms > 0 and np.isfinite(ms)):
        raise DeviceError(f"{path}:{number}: M = {m}, N = {n}, ms_median = {ms:g}, but each must be above 0 and finite")
    op = op_of(name, k)
    return (row["device"], op, m, n, k if op == "linear" else 0, f"{row.get('model')} {row.get('tp')} {name}"), ms


def _table(medians: Mapping[_Key, Iterable[float]]) -> Ops:
    keys = list(medians)
    device, op = (np.array([key[i] for key in keys], dtype=np.str_) for i in (0, 1))
    m, n, k = (np.array([key[i] for key in keys], dtype=np.float64) for i in (2, 3, 4))
    return Ops(device, op, m, n, k, np.array([float(np.median(list(ms))) for ms in medians.values()]))


def _thinned(table: Ops) -> Ops:
    tokens = np.unique(table.m)
    if len(tokens) <= TOKENS:
        return table
    wanted = np.geomspace(tokens[0], tokens[-1], TOKENS)
    kept = np.unique(np.abs(np.log(tokens[:, None] / wanted)).argmin(axis=0))
    return table.where(np.isin(table.m, tokens[kept]))
