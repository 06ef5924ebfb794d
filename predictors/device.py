"""`available()`, `load(name)`, and the `Device` that prices ops and workloads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TypedDict, Unpack, cast

import numpy as np
from numpy.typing import ArrayLike

from archrank.grammar.workload import OpCost, Workload
from archrank.predictors import profile as profiles
from archrank.predictors import roofline
from archrank.predictors.profile import DeviceError, Profile
from archrank.predictors.roofline import Array

DEVICES = Path(__file__).parent / "devices"
Size = ArrayLike | None
"""A size of an op: a number, an array that broadcasts with the op's other sizes, or None where the op has no
such size."""


class Sizes(TypedDict, total=False):
    """The keywords that `op_ms` and `bound_ms` take for an op's sizes; which ones, `grammar.workload.FORMS`
    says.
    """

    m: Size
    n: Size
    k: Size
    b: Size
    r: Size
    bucket: Size
    c_in: Size
    c_out: Size
    h: Size
    w: Size
    kernel: Size
    stride: Size
    padding: Size
    groups: Size
    heads: Size
    kv_heads: Size
    q: Size
    kv: Size
    d: Size
    flops: Size
    read: Size
    written: Size
    parameters: Size


@dataclass(frozen=True)
class Prediction:
    """Per workload: `ms`, its 90 % interval `low` … `high`, and `memory_bytes`; arrays of one length, 0 < low
    ≤ ms ≤ high.
    """

    ms: Array
    low: Array
    high: Array
    memory_bytes: Array


@dataclass(frozen=True)
class Device:
    """A device model: a roofline with the profile's efficiencies and launch overhead
    (`archrank.predictors.roofline`).
    """

    profile: Profile

    @property
    def name(self) -> str:
        """The device's full name, such as `A100-80GB SXM`."""
        return self.profile.name

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that the device has a peak for."""
        return tuple(self.profile.peak_ops_per_s)

    def op_ms(self, op: str, *, dtype: str, **dims: Unpack[Sizes]) -> float | Array:
        """Predicted time of one op in ms: a float for numbers, an array of the broadcast shape for arrays; ≥
        `bound_ms`.

        Sizes by op: `grammar.workload.FORMS` (`linear` m, n, k; `bmm` b, m, n, k; …). `WorkloadError` for an
        unknown op or a wrong size, `DeviceError` for a dtype without a peak here; both are ValueErrors.
        """
        self.profile.peak(dtype)
        return _plain(roofline.op_ms(self.profile, op, roofline.sizes(op, _given(dims)), dtype))

    def bound_ms(self, op: str, *, dtype: str, **dims: Unpack[Sizes]) -> float | Array:
        """The analytic bound in ms that no kernel beats (datasheet peaks, no overhead); arguments and errors
        of `op_ms`.
        """
        self.profile.peak(dtype)
        return _plain(roofline.bound_ms(self.profile, op, roofline.sizes(op, _given(dims)), dtype))

    def predict(self, workloads: Sequence[Workload], dtype: str) -> Prediction:
        """Time and memory of each workload, ops one after the other: ms = Σ count · op_ms. Each distinct op
        is priced once.

        An op's own dtype goes before `dtype`. The interval is ms · f and max(Σ bound, ms / f) with the
        profile's factor f: errors of ops on one device go together, so they are not averaged out. Raises
        `DeviceError` as `op_ms` does.
        """
        self.profile.peak(dtype)
        columns: dict[tuple[str, tuple[tuple[str, int], ...], str | None], int] = {}
        row, column, counts = [], [], []
        for index, workload in enumerate(workloads):
            for cost in workload.ops:
                row.append(index)
                column.append(columns.setdefault(cost.key, len(columns)))
                counts.append(cost.count)
        each_ms, each_bound = self._priced([OpCost(*key) for key in columns], dtype)
        counted, which = np.asarray(counts, dtype=np.float64), np.asarray(column, dtype=np.intp)
        rows = np.asarray(row, dtype=np.intp)
        ms = np.bincount(rows, counted * each_ms[which], len(workloads)).astype(np.float64)
        bound = np.bincount(rows, counted * each_bound[which], len(workloads)).astype(np.float64)
        factor = self.profile.interval["fp32" if dtype == "fp32" else "low"]
        memory = np.array([workload.memory_bytes(dtype) for workload in workloads], dtype=np.float64)
        return Prediction(ms=ms, low=np.maximum(bound, ms / factor), high=ms * factor, memory_bytes=memory)

    def _priced(self, costs: Sequence[OpCost], dtype: str) -> tuple[Array, Array]:
        """Predicted and bound ms of each cost, all of one op and dtype at once."""
        ms, bound = np.zeros(len(costs)), np.zeros(len(costs))
        for (op, at), where in _grouped(costs, dtype):
            names = [name for name, _ in costs[where[0]].dims]
            table = np.array([[size for _, size in costs[index].dims] for index in where], dtype=np.float64)
            dims = dict(zip(names, table.T, strict=True))
            ms[where] = roofline.op_ms(self.profile, op, dims, at)
            bound[where] = roofline.bound_ms(self.profile, op, dims, at)
        return ms, bound


def _grouped(costs: Sequence[OpCost], dtype: str) -> Iterator[tuple[tuple[str, str], list[int]]]:
    groups: dict[tuple[str, str], list[int]] = {}
    for index, cost in enumerate(costs):
        groups.setdefault((cost.op, cost.dtype or dtype), []).append(index)
    yield from groups.items()


def _given(dims: Sizes) -> dict[str, ArrayLike | None]:
    return {str(name): cast("ArrayLike | None", size) for name, size in dims.items()}


def _plain(ms: Array) -> float | Array:
    return float(ms) if ms.ndim == 0 else ms


def available() -> tuple[str, ...]:
    """Names of the shipped devices: the files under `devices/`."""
    return tuple(sorted(path.stem for path in DEVICES.glob("*.toml")))


def summary(name: str) -> str:
    """One line on a device: its full name, memory, bandwidth, dtypes, and short names."""
    profile = load(name).profile
    spec = profile.spec
    figures = f"{spec['memory_bytes'] / 2**30:.0f} GiB, {spec['memory_bandwidth_bytes_per_s'] / 1e9:.0f} GB/s"
    also = f"; also {', '.join(profile.aliases)}" if profile.aliases else ""
    peaks = " ".join(profile.peak_ops_per_s)
    return f"{profile.vendor} {profile.name} ({profile.architecture}): {figures}, {peaks}{also}"


def load(name_or_path: str | Path) -> Device:
    """A shipped device by file name or alias (`a100`, `h100-pcie`; case and blanks do not matter), or a
    profile by its path.

    `DeviceError` (a ValueError) names the nearest devices where there is none of that name, and file and key
    where a profile is wrong.
    """
    given = str(name_or_path)
    if isinstance(name_or_path, Path) or given.endswith(".toml"):
        return Device(profiles.read(Path(given)))
    return _shipped(given)


@cache
def _shipped(given: str) -> Device:
    names = _names()
    slug = "-".join(given.strip().lower().replace("_", " ").split())
    if slug not in names:
        near = get_close_matches(slug, names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        shipped = ", ".join(available())
        raise DeviceError(f"unknown device {given!r}: {hint}shipped are {shipped}; or give the path of a .toml file")
    return Device(profiles.read(DEVICES / f"{names[slug]}.toml"))


@cache
def _names() -> dict[str, str]:
    """File name of each name and alias."""
    names = {stem: stem for stem in available()}
    for stem in available():
        for alias in profiles.read(DEVICES / f"{stem}.toml").aliases:
            if names.setdefault(alias, stem) != stem:
                raise DeviceError(f"{DEVICES / stem}.toml: alias {alias!r} already names {names[alias]}")
    return names
