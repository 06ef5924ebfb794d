"""`fit(tables)`: the learned constants from tables of measured ops, and how wide their intervals must be.

Per device the constants of `tiles` and `rowwise`; over all devices one forest a family on the weighted residual
log(t / base) / share, weight share² (share: the part of the base that is no overhead), each device weighing the same.
Interval factors are exp of the 90 % quantile of |log error| of held-out rows: a third of the (op, N, K) shapes at a
time, and one device at a time with the mean constants of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archrank.predictors import eager, measured, registry, rowwise, tiles
from archrank.predictors.device import Device
from archrank.predictors.forest import Forest, Growth, grow
from archrank.predictors.learned import Family, Learned, chip_of, mean
from archrank.predictors.measured import Ops
from archrank.predictors.measured_eager import eager_rows
from archrank.predictors.profile import DeviceError, Profile
from archrank.predictors.tiles import Array, Chip

GROWTH = {"matmul": Growth(leaves=31), "rowwise": Growth(trees=200, leaves=10)}
TRIAL = Growth(trees=60, rate=0.15, leaves=10)
"""The forests that only measure the interval."""
FOLDS = 3
LEAST_SHARE = 0.05
"""What is divided by: below it a time is all overhead and its row weighs next to nothing."""
FEWEST = 20
"""Rows of a family on a device below which its constants are those of the others."""


@dataclass(frozen=True)
class Fitted:
    """What `fit` found: `load(name)` gives a device that predicts with it."""

    learned: Learned

    def load(self, name_or_path: str | Path) -> Device:
        """`predictors.load` with these constants in place of the shipped ones."""
        return replace(registry.load(name_or_path), learned=self.learned)


@dataclass(frozen=True)
class _Rows:
    """Rows of one family with what is learned from them: `x` features, `base` ms, `share` of it, per row."""

    table: Ops
    x: Array
    base: Array
    share: Array

    def grown(self, keep: NDArray[np.bool_], growth: Growth) -> Forest:
        ms, base, share = self.table.ms[keep], self.base[keep], self.share[keep]
        names, which = np.unique(self.table.device[keep], return_inverse=True)
        each = len(ms) / len(names) / np.bincount(which)[which]
        return grow(self.x[keep], np.log(ms / base) / share, each * share**2, growth)

    def errors(self, forest: Forest, keep: NDArray[np.bool_]) -> Array:
        """|log(predicted / measured)| of the rows of `keep`."""
        told = np.log(self.base[keep]) + self.share[keep] * forest(self.x[keep])
        return np.abs(told - np.log(self.table.ms[keep]))


Constants = dict[str, dict[str, tuple[float, ...]]]


def fit(paths: Sequence[str | Path]) -> Fitted:
    """The shipped constants again from tables of measured ops (columns: `measured.COLUMNS`); the same rows give the
    same constants. Tables of fp32 ops of eager PyTorch (`measured_eager`) give the fp32 layer (`eager`); other tables
    are left out.

    `DeviceError` (a ValueError) names a file that cannot be read, a row or a device that is unknown, no usable table,
    or times that the bound shows to be in another unit.
    """
    tables = {path: measured.read(path) for path in map(Path, paths)}
    if not tables:
        raise DeviceError('no table was given: fit(["ops.csv.gz", …]) takes at least one')
    table, used = measured.ops(tables)
    rows = {path: found for path, read in tables.items() if (found := eager_rows(path, read))}
    if not used and not rows:
        given = ", ".join(map(str, tables))
        raise DeviceError(
            f"no table of measured ops among {given}: one needs the columns {', '.join(measured.COLUMNS)}"
        )
    profiles = {str(name): registry.load(str(name)).profile for name in np.unique(table.device)}
    for name, profile in profiles.items():
        _check_unit(profile, table.where(table.device == name))
    families = {}
    product = table.op == "linear"
    if product.any():
        families["matmul"] = _family("matmul", table.where(product), profiles)
    if len(table) and not product.all():
        families["rowwise"] = _family("rowwise", table.where(~product), profiles)
    capabilities = {profile.name: profile.compute_capability for profile in profiles.values()}
    fp32 = eager.fit([each for found in rows.values() for each in found]) if rows else None
    return Fitted(Learned(families, (*used, *(path.name for path in rows)), capabilities, fp32))


def _check_unit(profile: Profile, table: Ops) -> None:
    """Seconds look a thousand times faster than the bound allows, microseconds a thousand times slower."""
    large = table.where((table.op == "linear") & (table.m * table.n * table.k > 1e10))
    if not len(large):
        return
    bound = 2e3 * large.m * large.n * large.k / profile.peak("fp16")
    ratio = float(np.median(large.ms / bound))
    if not 0.9 <= ratio <= 100:
        raise DeviceError(
            f"{profile.name}: measured times are {ratio:.3g} times the bound of its datasheet (median of "
            f"{len(large)} large products): is the column ms_median in another unit? It takes milliseconds"
        )


def _family(name: str, table: Ops, profiles: Mapping[str, Profile]) -> Family:
    constants = _constants(table, profiles)
    rows = _rows(table, profiles, lambda device, op: constants[profiles[device].name][op])
    everything = np.ones(len(table), dtype=bool)
    forest = rows.grown(everything, GROWTH[name])
    shapes = np.unique(np.stack([table.n, table.k], axis=1), axis=0, return_inverse=True)[1].ravel()
    turn = np.random.default_rng(0).permutation(shapes.max() + 1)[shapes] % FOLDS
    own = [rows.errors(rows.grown(turn != fold, TRIAL), turn == fold) for fold in range(FOLDS) if (turn != fold).any()]
    interval = {"own": _factor(own)}
    interval["borrowed"] = max(interval["own"] * 1.2, _factor(_unseen(table, profiles, constants)))
    return Family(constants, forest, interval)


def _factor(errors: Sequence[Array]) -> float:
    """Exp of the 90 % quantile; 1.35 where nothing could be held out."""
    return round(float(np.exp(np.quantile(np.concatenate(errors), 0.9))), 3) if errors else 1.35


def _unseen(table: Ops, profiles: Mapping[str, Profile], constants: Constants) -> list[Array]:
    """Errors on each device with the constants and the forest of the others."""
    errors = []
    for name, profile in profiles.items():
        others = [by_op for device, by_op in constants.items() if device not in ("", profile.name)]
        if not others:
            continue
        borrowed = {
            op: mean([each[op] for each in others if op in each] or [constants[""][op]]) for op in constants[""]
        }

        def told(
            device: str, op: str, this: str = name, there: Mapping[str, tuple[float, ...]] = borrowed
        ) -> tuple[float, ...]:
            return there[op] if device == this else constants[profiles[device].name][op]

        rows, mine = _rows(table, profiles, told), table.device == name
        errors.append(rows.errors(rows.grown(~mine, TRIAL), mine))
    return errors


def _key(op: str) -> str:
    return "matmul" if op == "linear" else op


def _sizes(table: Ops) -> Array:
    return np.stack([np.ones(len(table)), table.m, table.n, table.k], axis=1)


def _constants(table: Ops, profiles: Mapping[str, Profile]) -> Constants:
    """Per device and op; a device with too few rows of an op gets the mean, which stands under ""."""
    found: Constants = {profile.name: {} for profile in profiles.values()}
    for name, profile in profiles.items():
        chip = chip_of(profile, "fp16")
        for op in np.unique(table.op):
            some = table.where((table.device == name) & (table.op == op))
            if len(some) >= FEWEST:
                found[profile.name][_key(str(op))] = _fitted(str(op), some, chip)
    ops = {op for by_op in found.values() for op in by_op}
    missing = {_key(str(op)) for op in np.unique(table.op)} - ops
    if missing:
        raise DeviceError(
            f"too few rows: no device has {FEWEST} of {', '.join(sorted(missing))}. Measure more sizes, or leave it out"
        )
    middle = {op: mean([by_op[op] for by_op in found.values() if op in by_op]) for op in sorted(ops)}
    return {"": middle, **{device: {**middle, **by_op} for device, by_op in found.items()}}


def _fitted(op: str, some: Ops, chip: Chip) -> tuple[float, ...]:
    if op == "linear":
        return tiles.fit(_sizes(some), some.ms, chip)
    return rowwise.fit(op, _sizes(some)[:, 1:3], some.ms, chip)


def _rows(table: Ops, profiles: Mapping[str, Profile], constants: Callable[[str, str], tuple[float, ...]]) -> _Rows:
    sizes, base, share = _sizes(table), np.zeros(len(table)), np.zeros(len(table))
    x: Array = np.zeros((len(table), 0))
    for name, profile in profiles.items():
        chip = chip_of(profile, "fp16")
        for op in np.unique(table.op[table.device == name]):
            here = (table.device == name) & (table.op == op)
            given = constants(name, _key(str(op)))
            if op == "linear":
                base[here], share[here] = tiles.base(given, sizes[here], chip)
                found = tiles.features(given, sizes[here], chip)
            else:
                base[here], share[here] = rowwise.base(given, str(op), sizes[here, 1:3], chip)
                found = rowwise.features(given, str(op), sizes[here, 1:3], chip)
            x = x if x.shape[1] else np.zeros((len(table), found.shape[1]))
            x[here] = found
    return _Rows(table, x, base, np.maximum(share, LEAST_SHARE))
