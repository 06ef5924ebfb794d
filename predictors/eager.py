"""fp32 ops of eager PyTorch on NVIDIA GPUs: the forms of `tiles` and `rowwise`, constants a device, and no residual.

    product_ms  = √(wave_ms · roof_ms) at the sustained peak      row-wise_ms = max(bytes / (bandwidth · e), c · n)
    sustained   = min(peak, 0.6e12 · tdp_w / node_nm)             each plus the profile's own launch overhead

A card of little power does not hold its boost clock: a 72 W L4 reaches 0.3 of its fp32 peak, a 250 W A100 0.8. What a
watt computes goes with 1 / the node of its process; 0.6 is the factor of least error on devices left out by turns.
No trees: on left-out devices they made every product worse, as five devices do not tell a forest what a device changes.

A device without rows takes the constants of its compute capability, else the mean of all; norms and softmax, which read
a row more than once, take those of the device with the most alike L2 cache per multiprocessor. The table's floor of 25
to 70 µs a launch belongs to its host and is not taken over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archrank.predictors import rowwise, tiles
from archrank.predictors.profile import Profile
from archrank.predictors.tiles import Array, Chip

__all__ = ["Eager", "Rows", "fit", "from_json", "sustained"]

DTYPE = "fp32"
SIZE = 4.0
NODES_NM = {"6.0": 16, "6.1": 16, "7.0": 12, "7.5": 12, "8.0": 7, "8.6": 8, "8.7": 8, "8.9": 4, "9.0": 4, "10.0": 4}
"""Process node of each compute capability, as NVIDIA names it."""
PER_WATT = 0.6e12
PRODUCTS = ("linear", "bmm")
STANDS_FOR = {
    "rms_norm": "layer_norm",
    "silu": "gelu",
    "silu_mul": "mul",
    "rope": "mul",
    "embedding": "gelu",
    "copy": "gelu",
    "elementwise": "add",
}
SEVERAL_PASSES = ("layer_norm", "softmax")
MOST_PRODUCTS, MOST_ROWS = 600, 300
"""Rows a device and op that the constants are fitted to: products at random, row-wise ops the largest, whose bytes come
from memory.
"""
HOST_MS = 0.1
"""Below it a time of these tables is mostly the host's launch: no interval is judged on such rows."""
FEWEST = 20
WAVE_OVERHEAD, ROOF_OVERHEAD, ROW_OVERHEAD = 3, 8, 1
"""Places of the overheads among the constants."""


@dataclass(frozen=True)
class Rows:
    """Measured rows of one op on one device: `sizes` (rows, 4) b, m, n, k, or (rows, 2) m, n; `ms` (rows,)."""

    profile: Profile
    op: str
    sizes: Array
    ms: Array


def sustained(profile: Profile) -> float:
    """FLOP/s in fp32 that the card's power allows for long (formula above)."""
    peak, node = profile.peak(DTYPE), NODES_NM.get(profile.compute_capability)
    return peak if node is None else min(peak, PER_WATT * profile.spec["tdp_w"] / node)


def _chip(profile: Profile) -> Chip:
    return {
        "peak": sustained(profile),
        "bandwidth": profile.spec["memory_bandwidth_bytes_per_s"],
        "sm": profile.spec["sm_count"],
        "l2": profile.spec["l2_bytes"],
        "size": SIZE,
    }


Constants = tuple[float, ...]


@dataclass(frozen=True)
class Eager:
    """`constants`: {device: {op: constants}}; `capability` and `l2_per_sm` of each; `interval`: {op: (on a measured
    device, on another)}, factors that hold 9 of 10 rows.
    """

    constants: Mapping[str, Mapping[str, Constants]]
    capability: Mapping[str, str]
    l2_per_sm: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]

    def prices(self, profile: Profile, op: str) -> bool:
        """Whether rows of this kind of op were measured, for a device of this kind."""
        return profile.vendor == "NVIDIA" and STANDS_FOR.get(op, op) in self.interval

    def factor(self, profile: Profile, op: str) -> float:
        """The interval's factor."""
        name = STANDS_FOR.get(op, op)
        return self.interval[name][0 if name in self.constants.get(profile.name, {}) else 1]

    def op_ms(self, profile: Profile, op: str, dims: Mapping[str, Any]) -> Array:
        """Predicted ms, arrays of the broadcast shape of `dims`; rises with every size."""
        letters = tiles.LETTERS if op in PRODUCTS else rowwise.LETTERS
        spread = np.broadcast_arrays(*(np.asarray(dims.get(letter, 1.0), dtype=np.float64) for letter in letters))
        sizes = np.stack([each.ravel() for each in spread], axis=1)
        constants = self.lent(profile, STANDS_FOR.get(op, op))
        return _base(profile, op, sizes, constants).reshape(spread[0].shape)

    def lent(self, profile: Profile, op: str, without: str = "") -> Constants:
        """The constants of an op on a device, from its own rows unless it is the one left out."""
        there = {name: by_op[op] for name, by_op in self.constants.items() if op in by_op and name != without}
        if profile.name in there:
            return there[profile.name]
        alike = [name for name in there if self.capability[name] == profile.compute_capability] or list(there)
        if op in SEVERAL_PASSES:
            mine = math.log(profile.spec["l2_bytes"] / profile.spec["sm_count"])
            alike = [min(alike, key=lambda name: abs(math.log(self.l2_per_sm[name]) - mine))]
        return tuple(float(x) for x in np.exp(np.mean(np.log([there[name] for name in alike]), axis=0)))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "constants": {d: {op: list(c) for op, c in by_op.items()} for d, by_op in self.constants.items()},
            "capability": dict(self.capability),
            "l2_per_sm": dict(self.l2_per_sm),
            "interval": {op: list(pair) for op, pair in self.interval.items()},
        }


def from_json(data: Mapping[str, Any]) -> Eager:
    """What `Eager.to_json` gave."""
    return Eager(
        {d: {op: tuple(c) for op, c in by_op.items()} for d, by_op in data["constants"].items()},
        dict(data["capability"]),
        dict(data["l2_per_sm"]),
        {op: (float(a), float(b)) for op, (a, b) in data["interval"].items()},
    )


def _base(profile: Profile, op: str, sizes: Array, constants: Constants) -> Array:
    """The form at the profile's own launch overhead."""
    own = list(constants)
    if op in PRODUCTS:
        own[WAVE_OVERHEAD] = own[ROOF_OVERHEAD] = profile.launch["matmul_us"]
        return tiles.base(own, sizes, _chip(profile))[0]
    own[ROW_OVERHEAD] = profile.launch["other_us"]
    return rowwise.base(own, op, sizes, _chip(profile))[0]


def fit(tables: Sequence[Rows]) -> Eager:
    """The constants of every device and op, and how wide the intervals must be: own, from each op's rows that were not
    fitted to; another's, with the device left out.
    """
    constants: dict[str, dict[str, Constants]] = {}
    judged: list[tuple[Rows, Rows]] = []
    for rows in tables:
        taken = _taken(rows)
        fitted, rest = _part(rows, taken), _part(rows, np.setdiff1d(np.arange(len(rows.ms)), taken))
        chip = _chip(rows.profile)
        found = (
            tiles.fit(fitted.sizes, fitted.ms, chip)
            if rows.op in PRODUCTS
            else rowwise.fit(rows.op, fitted.sizes, fitted.ms, chip)
        )
        constants.setdefault(rows.profile.name, {})[rows.op] = found
        large = _part(rest, np.flatnonzero(rest.ms > HOST_MS))
        judged.append((rows, large if len(large.ms) >= FEWEST else fitted))
    profiles = {rows.profile.name: rows.profile for rows in tables}
    model = Eager(
        constants,
        {name: p.compute_capability for name, p in profiles.items()},
        {name: p.spec["l2_bytes"] / p.spec["sm_count"] for name, p in profiles.items()},
        {},
    )
    interval = {}
    for op in dict.fromkeys(rows.op for rows in tables):
        pairs = [(rows, large) for rows, large in judged if rows.op == op]
        own = _factor([_errors(large, model.lent(rows.profile, op)) for rows, large in pairs])
        other = own * 1.2
        if len(pairs) > 1:
            left = [_errors(large, model.lent(rows.profile, op, rows.profile.name)) for rows, large in pairs]
            other = max(other, _factor(left))
        interval[op] = (own, round(other, 3))
    return Eager(model.constants, model.capability, model.l2_per_sm, interval)


def _taken(rows: Rows) -> NDArray[np.intp]:
    if rows.op in PRODUCTS:
        return np.sort(np.random.default_rng(0).permutation(len(rows.ms))[:MOST_PRODUCTS])
    return np.sort(np.argsort(rowwise.moved(rows.op, rows.sizes, SIZE), kind="stable")[-MOST_ROWS:])


def _part(rows: Rows, index: NDArray[np.intp]) -> Rows:
    return Rows(rows.profile, rows.op, rows.sizes[index], rows.ms[index])


def _errors(rows: Rows, constants: Constants) -> Array:
    told = _base(rows.profile, rows.op, rows.sizes, constants)
    return np.abs(np.log(told / rows.ms))


def _factor(errors: Sequence[Array]) -> float:
    return round(float(np.exp(np.quantile(np.concatenate(errors), 0.9))), 3)
