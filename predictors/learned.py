"""The learned layer: per device a few constants, over all devices one forest a family; shipped as `learned.json`.

Families: `matmul` (linear, bmm in fp16 and lower) and `rowwise` (norms, activations, additions, gathers), fitted on
`latency/llm_ops_fp16.csv.gz` by `predictors.fit`; fp32 is a layer of its own (`eager`). A device without rows takes the
constants of the measured devices of its compute capability, else the geometric mean of all: the forest has no feature
that names a device.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from archrank.grammar.workload import dtype_bytes
from archrank.predictors import eager, lattice, rowwise, tiles
from archrank.predictors import forest as forests
from archrank.predictors.eager import Eager
from archrank.predictors.forest import Forest
from archrank.predictors.profile import DeviceError, Profile
from archrank.predictors.tiles import Array, Chip

SHIPPED = Path(__file__).parent / "learned.json"
MATMUL = ("linear", "bmm")
ROWWISE = (*rowwise.OPS, *rowwise.STANDS_FOR)
FP32 = eager.DTYPE
LOW = ("fp16", "bf16", "fp8", "int8")
"""The dtypes that the low-precision families price; rows exist in fp16."""


@dataclass(frozen=True)
class Family:
    """`constants`: {device: {op: constants}} (op is `matmul` for products), `""` the mean device; `interval`: the
    factors by which 9 of 10 held-out rows are within the prediction, `own` shapes unseen on a measured device,
    `borrowed` a device unseen.
    """

    constants: Mapping[str, Mapping[str, tuple[float, ...]]]
    forest: Forest
    interval: Mapping[str, float]


@dataclass(frozen=True)
class Learned:
    """Families by name, the tables they were fitted on, each measured device's compute capability, and the layer of
    fp32 ops (None: no table had any).
    """

    families: Mapping[str, Family]
    tables: tuple[str, ...]
    capabilities: Mapping[str, str]
    eager: Eager | None = None

    def prices(self, profile: Profile, op: str, dtype: str) -> bool:
        """Whether rows of this kind of op were measured, for a device of this kind."""
        if dtype == FP32:
            return self.eager is not None and self.eager.prices(profile, op)
        family = "matmul" if op in MATMUL else "rowwise" if op in ROWWISE else ""
        return profile.vendor == "NVIDIA" and dtype in LOW and family in self.families

    def interval(self, profile: Profile, op: str, dtype: str) -> float:
        """The factor by which 9 of 10 measured times are within the prediction, 1.2 times as wide for a dtype
        without rows.
        """
        if dtype == FP32 and self.eager is not None:
            return self.eager.factor(profile, op)
        family = self.families["matmul" if op in MATMUL else "rowwise"]
        factor = family.interval["own" if profile.name in family.constants else "borrowed"]
        return factor * (1.0 if dtype == "fp16" else 1.2)

    def op_ms(self, profile: Profile, op: str, dims: Mapping[str, Any], dtype: str) -> Array:
        """Predicted ms, arrays of the broadcast shape of `dims`; never falls when a size doubles."""
        if dtype == FP32 and self.eager is not None:
            return self.eager.op_ms(profile, op, dims)
        letters = tiles.LETTERS if op in MATMUL else rowwise.LETTERS
        spread = np.broadcast_arrays(*(np.asarray(dims.get(letter, 1.0), dtype=np.float64) for letter in letters))
        sizes = np.stack([each.ravel() for each in spread], axis=1)
        return self._priced(profile, op, sizes, dtype).reshape(spread[0].shape)

    def _priced(self, profile: Profile, op: str, sizes: Array, dtype: str) -> Array:
        chip, letters = chip_of(profile, dtype), sizes.shape[1]
        if op in MATMUL:
            family = self.families["matmul"]
            constants = self._constants(profile, family, "matmul")
            return lattice.rising(
                sizes,
                range(letters) if op == "bmm" else range(1, letters),
                lambda s: tiles.base(constants, s, chip),
                lambda s: family.forest(tiles.features(constants, s, chip)),
                family.forest.high,
            )
        family = self.families["rowwise"]
        constants = self._constants(profile, family, rowwise.STANDS_FOR.get(op, op))
        return lattice.rising(
            sizes,
            range(letters),
            lambda s: rowwise.base(constants, op, s, chip),
            lambda s: family.forest(rowwise.features(constants, op, s, chip)),
            family.forest.high,
        )

    def _constants(self, profile: Profile, family: Family, op: str) -> tuple[float, ...]:
        alike = (
            [family.constants[profile.name]]
            if profile.name in family.constants
            else [
                by_op
                for name, by_op in family.constants.items()
                if self.capabilities.get(name) == profile.compute_capability
            ]
        )
        alike = alike or [family.constants[""]]
        for name in (op, *rowwise.UNSEEN):
            same = [by_op[name] for by_op in alike if name in by_op]
            if same:
                return mean(same)
        raise DeviceError(f"{profile.name}: the tables {', '.join(self.tables)} have no rows to price {op} from")

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        fp32 = {} if self.eager is None else {"eager": self.eager.to_json()}
        return {
            "schema": 1,
            **fp32,
            "tables": list(self.tables),
            "capabilities": dict(self.capabilities),
            "families": {
                name: {
                    "constants": {d: {op: list(c) for op, c in ops.items()} for d, ops in family.constants.items()},
                    "interval": dict(family.interval),
                    "forest": family.forest.to_json(),
                }
                for name, family in self.families.items()
            },
        }


def mean(constants: list[tuple[float, ...]]) -> tuple[float, ...]:
    """Geometric mean of devices' constants."""
    return tuple(float(x) for x in np.exp(np.mean(np.log(np.asarray(constants)), axis=0)))


def chip_of(profile: Profile, dtype: str) -> Chip:
    """The figures of a device that the forms of `tiles` and `rowwise` take."""
    return {
        "peak": profile.peak(dtype),
        "bandwidth": profile.spec["memory_bandwidth_bytes_per_s"],
        "sm": profile.spec["sm_count"],
        "l2": profile.spec["l2_bytes"],
        "size": float(dtype_bytes(dtype)),
    }


def from_json(data: Mapping[str, Any], where: str) -> Learned:
    """What `Learned.to_json` gave; `DeviceError` for another schema."""
    if data.get("schema") != 1:
        raise DeviceError(
            f"{where}: schema = {data.get('schema')!r}, but this version reads 1: fit the constants again"
        )
    families = {
        name: Family(
            constants={d: {op: tuple(c) for op, c in ops.items()} for d, ops in each["constants"].items()},
            forest=forests.from_json(each["forest"]),
            interval=MappingProxyType(dict(each["interval"])),
        )
        for name, each in data["families"].items()
    }
    fp32 = eager.from_json(data["eager"]) if "eager" in data else None
    return Learned(families, tuple(data["tables"]), dict(data["capabilities"]), fp32)


@cache
def shipped() -> Learned:
    """The constants in the package."""
    return from_json(json.loads(SHIPPED.read_text(encoding="utf-8")), str(SHIPPED))
