"""Which networks to measure, and how good a calibration is on networks that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archrank.grammar.workload import Workload
from archrank.predictors import metrics, network
from archrank.predictors.calibration import PARTS
from archrank.predictors.device import Device
from archrank.predictors.profile import DeviceError

FOLDS = 5


def k_center(device: Device, workloads: Sequence[Workload], count: int, dtype: str) -> list[int]:
    """`count` of the workloads, far apart: the one nearest the middle, then always the one furthest from those taken
    (Gonzalez 1985), by the distance that a calibration sees: each part's share of the predicted time, times its τ, and
    log of that time. `DeviceError` where there are fewer than `count`.
    """
    if not 1 <= count <= len(workloads):
        raise DeviceError(f"{count} networks were asked for out of {len(workloads)}: it must be from 1 to that many")
    device.profile.peak(dtype)
    population = network.priced(device.profile, device.learned, workloads, dtype)
    parts = network.parts_of(population, workloads, 1e-3 * device.profile.launch["other_us"])
    tau = np.array([PARTS[name.split(".")[1]] for name in parts.names])
    x = np.concatenate([parts.ms / parts.total[:, None] * tau, np.log(parts.total)[:, None]], axis=1)
    taken = [int(np.square(x - x.mean(axis=0)).sum(axis=1).argmin())]
    far = np.full(len(x), np.inf)
    while len(taken) < count:
        far = np.minimum(far, np.square(x - x[taken[-1]]).sum(axis=1))
        far[taken] = -1.0
        taken.append(int(far.argmax()))
    return taken


def cross_validated(
    device: Device, workloads: Sequence[Workload], measured_ms: ArrayLike, dtype: str
) -> tuple[float, float]:
    """(MAPE in %, Spearman's ρ) of calibrations on four fifths, on the fifth left out (each network by itself below ten
    of them). `DeviceError` with fewer than two networks, and as `Device.calibrated`.
    """
    ms = np.asarray(measured_ms, dtype=np.float64)
    n = len(workloads)
    if n < 2:
        raise DeviceError(f"{n} measured network(s): cross-validation needs at least 2. Measure more of them")
    turn: NDArray[np.intp] = np.random.default_rng(0).permutation(n) % (FOLDS if n >= 2 * FOLDS else n)
    told = np.zeros(n)
    for fold in range(int(turn.max()) + 1):
        out, kept = np.flatnonzero(turn == fold).tolist(), np.flatnonzero(turn != fold).tolist()
        fitted = device.calibrated([workloads[i] for i in kept], ms[kept], dtype)
        told[out] = fitted.predict([workloads[i] for i in out], dtype).ms
    return metrics.mape(ms, told), metrics.spearman(ms, told)
