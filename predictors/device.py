"""`Device`: prices ops and workloads, and is fitted to measured networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypedDict, Unpack, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archrank.grammar.workload import Workload
from archrank.predictors import network, pricing, roofline
from archrank.predictors.calibration import Calibration
from archrank.predictors.learned import Learned
from archrank.predictors.profile import DeviceError, Profile
from archrank.predictors.roofline import Array

FEW = 10
"""Measured networks below which a calibration says that it is thin."""
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
    """Per workload: `ms`, its 90 % interval `low` … `high`, `memory_bytes`, and whether that `fits` the device; arrays
    of one length, 0 < low ≤ ms ≤ high. What does not fit is not priced: its times are inf. `notes` say where no
    measured row stands behind a price, or a calibration is thin.
    """

    ms: Array
    low: Array
    high: Array
    memory_bytes: Array
    fits: NDArray[np.bool_]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Device:
    """A device model: `profile` (datasheet, roofline), `learned` (what the measured ops add; None: the roofline
    alone), `calibration` (what measured networks of one stack add).
    """

    profile: Profile
    learned: Learned | None = None
    calibration: Calibration | None = None

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
        `bound_ms`. A calibration is about whole networks and does not change it.

        Sizes by op: `grammar.workload.FORMS` (`linear` m, n, k; `bmm` b, m, n, k; …). `WorkloadError` for an
        unknown op or a wrong size, `DeviceError` for a dtype without a peak here; both are ValueErrors.
        """
        self.profile.peak(dtype)
        return _plain(pricing.op_ms(self.profile, self.learned, op, roofline.sizes(op, _given(dims)), dtype))

    def bound_ms(self, op: str, *, dtype: str, **dims: Unpack[Sizes]) -> float | Array:
        """The analytic bound in ms that no kernel beats (datasheet peaks, no overhead); arguments and errors
        of `op_ms`.
        """
        self.profile.peak(dtype)
        return _plain(roofline.bound_ms(self.profile, op, roofline.sizes(op, _given(dims)), dtype))

    def predict(self, workloads: Sequence[Workload], dtype: str) -> Prediction:
        """Time and memory of each workload, ops one after the other: ms = Σ count · op_ms. Each distinct op
        is priced once. Calibrated for `dtype`: that sum times the calibration's ratio, with its interval.

        An op's own dtype goes before `dtype`. Uncalibrated, the interval is Σ ms / f … Σ ms · f with each op's
        factor f: errors of ops on one device go together, so they are not averaged out. Nothing is below the
        bound. Raises `DeviceError` as `op_ms` does.
        """
        self.profile.peak(dtype)
        population = network.priced(self.profile, self.learned, workloads, dtype, self._memo)
        ms, bound = population.total(population.ms), population.total(population.bound)
        low, high = (
            population.total(population.ms / population.factor),
            population.total(population.ms * population.factor),
        )
        memory = np.array([workload.memory_bytes(dtype) for workload in workloads], dtype=np.float64)
        if self.calibration is not None and self.calibration.dtype == dtype and len(workloads):
            ratio, half = self.calibration(network.parts_of(population, workloads, self._launch_ms()))
            low, high, ms = ms * (ratio - half), ms * (ratio + half), ms * ratio
        fits = memory <= self.profile.spec["memory_bytes"]
        ms = np.where(fits, np.maximum(ms, bound), np.inf)
        low, high = np.where(fits, np.clip(low, bound, ms), np.inf), np.maximum(high, ms)
        return Prediction(ms, low, high, memory, fits, self._notes(population.kinds, population.labels, dtype))

    def calibrated(self, workloads: Sequence[Workload], measured_ms: ArrayLike, dtype: str) -> Device:
        """The device fitted to measured networks (`archrank.predictors.calibration`); one measured network scales,
        more learn the stack. An earlier calibration is replaced.

        `DeviceError` where none was measured, the numbers of both differ, a time is no positive number, or most lie
        below the bound or far above the prediction: another unit.
        """
        self.profile.peak(dtype)
        ms = _measured(workloads, measured_ms)
        population = network.priced(self.profile, self.learned, workloads, dtype, self._memo)
        bound, told = population.total(population.bound), population.total(population.ms)
        _check_unit(self.name, ms, bound, told)
        parts = network.parts_of(population, workloads, self._launch_ms())
        return replace(self, calibration=Calibration(dtype, parts, ms / parts.total))

    def _notes(self, kinds: Sequence[str], labels: Sequence[str], dtype: str) -> tuple[str, ...]:
        """What a reader of the figures should know."""
        if labels:
            kinds = [*(kind for kind in kinds if kind != "other"), *labels]
        known = [kind for kind in kinds if pricing.measured(self.profile, self.learned, kind, dtype)]
        plain = [kind for kind in kinds if kind in labels or kind not in known]
        notes = []
        if self.calibration is not None and self.calibration.dtype == dtype:
            n = len(self.calibration.ratio)
            if n < FEW:
                notes.append(f"calibrated on {n} network(s) only: the interval is widened; {FEW} or more are good")
        elif self.calibration is not None:
            notes.append(f"calibrated in {self.calibration.dtype}, asked for {dtype}: the calibration is left out")
        if plain:
            notes.append(f"no measured row of {', '.join(plain)} in {dtype}: priced by the roofline, interval widened")
        return tuple(notes)

    @cached_property
    def _memo(self) -> network.Memo:
        """Prices of ops seen: a search asks for one network at a time, made of the same ops."""
        return network.Memo()

    def _launch_ms(self) -> float:
        return 1e-3 * self.profile.launch["other_us"]


def _measured(workloads: Sequence[Workload], measured_ms: ArrayLike) -> Array:
    try:
        ms = np.asarray(measured_ms, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DeviceError(f"measured_ms is not an array of numbers: {error}") from error
    if not len(workloads):
        raise DeviceError("no measured network was given: calibrated([workload, …], [ms, …]) takes at least one")
    if ms.shape != (len(workloads),):
        raise DeviceError(f"{len(workloads)} workloads but measured_ms of shape {ms.shape}: one time a workload, in ms")
    wrong = ms[~(np.isfinite(ms) & (ms > 0))]
    if wrong.size:
        raise DeviceError(f"measured_ms holds {wrong.flat[0]:g}, but each must be above 0 and finite")
    empty = [index for index, workload in enumerate(workloads) if not workload.ops]
    if empty:
        raise DeviceError(f"workload {empty[0]} has no ops: nothing to compare its time with. Leave it out")
    return ms


def _check_unit(name: str, ms: Array, bound: Array, told: Array) -> None:
    """Seconds lie a thousand times too low: below the bound. Microseconds lie far above any prediction."""
    below = int(np.sum(ms < 0.9 * bound))
    if 2 * below >= len(ms):
        raise DeviceError(
            f"{name}: {below} of {len(ms)} measured times are below the bound that no kernel beats (the first "
            f"{ms[0]:g} ms, bound {bound[0]:.3g} ms): another unit, such as seconds? Give milliseconds"
        )
    ratio = float(np.median(ms / told))
    if ratio > 200:
        raise DeviceError(
            f"{name}: measured times are {ratio:.0f} times the predicted ones (median): another unit, such as "
            "microseconds? Give milliseconds"
        )


def _given(dims: Sizes) -> dict[str, ArrayLike | None]:
    return {str(name): cast("ArrayLike | None", size) for name, size in dims.items()}


def _plain(ms: Array) -> float | Array:
    return float(ms) if ms.ndim == 0 else ms
