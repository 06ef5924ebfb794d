"""Matrix products from first principles: tiles, waves and a roofline, seven and three constants a device.

A product of m × n outputs over k runs as ⌈m / t_m⌉ · ⌈n / t_n⌉ tiles on the device's S multiprocessors, W = ⌈tiles / S⌉
waves one after the other; the library takes the quickest tile:

    wave_ms = o + min over tiles of max(W · S · 2 t_m t_n k / (peak · e), bytes / (bandwidth · e_b)) + W · w
    e       = e_large · exp(−drop · log2(128 · 256 / (t_m t_n)))      small tiles reuse less
    roof_ms = max(flops / (peak · e_c), bytes / (bandwidth · e_b')) + o'

A product of less than one wave may be split over k: its compute time is at best `split` of a wave's, at least what its
own tiles need. The base of the learned residual is √(wave_ms · roof_ms). Tile and wave quantisation: NVIDIA, Matrix
Multiplication Background User's Guide; the wave form of a kernel's latency: NeuSight (Lee et al. 2025,
arXiv 2407.13853), equation 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TILES = ((64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128), (64, 256))
CONSTANTS = (
    "wave_compute",
    "wave_drop",
    "wave_bandwidth",
    "wave_overhead_us",
    "wave_us",
    "wave_split",
    "roof_compute",
    "roof_bandwidth",
    "roof_overhead_us",
)
"""Names of the constants of a device, in order: e_large, drop, e_b, o, w, split, e_c, e_b', o'."""
START = (0.78, 0.1, 0.78, 6.0, 0.6, 0.5, 0.68, 0.78, 6.0)
LETTERS = ("b", "m", "n", "k")
SPEC = ("sm_count", "memory_bandwidth_bytes_per_s")
Chip = Mapping[str, float | Array]
"""`peak` (operations/s), `bandwidth` (bytes/s), `sm`, `l2` (bytes) and `size` (bytes of an element): numbers or one a
row.
"""


def work(sizes: Array, size: float | Array) -> tuple[Array, Array]:
    """(flops, bytes) of products: `sizes` (rows, 4) in the order of `LETTERS`; weights shared where b is 1."""
    b, m, n, k = sizes.T
    return 2 * b * m * n * k, size * b * (m * k + k * n + m * n)


def wave_ms(constants: Sequence[float], sizes: Array, chip: Chip) -> Array:
    """The wave form above; rises with every size."""
    large, drop, share, overhead, per_wave, split = constants[:6]
    _, moved = work(sizes, chip["size"])
    b, m, n, k = sizes.T
    memory = 1e3 * moved / (chip["bandwidth"] * share)
    best = np.full(len(sizes), np.inf)
    for high, wide in TILES:
        tiles = b * np.ceil(m / high) * np.ceil(n / wide)
        waves = np.ceil(tiles / chip["sm"])
        reached = chip["peak"] * large * np.exp(-drop * np.log2(128 * 256 / (high * wide)))
        tile = 2e3 * high * wide * k / reached
        compute = waves * chip["sm"] * tile
        compute = np.where(tiles < chip["sm"], np.maximum(tiles * tile, compute * min(split, 1.0)), compute)
        best = np.minimum(best, np.maximum(compute, memory) + 1e-3 * per_wave * waves)
    return np.asarray(best + 1e-3 * overhead)


def roof_ms(constants: Sequence[float], sizes: Array, chip: Chip) -> Array:
    """The roofline with efficiencies and overhead; rises with every size."""
    compute, share, overhead = constants[6:9]
    flops, moved = work(sizes, chip["size"])
    slowest = np.maximum(flops / (chip["peak"] * compute), moved / (chip["bandwidth"] * share))
    return np.asarray(1e3 * slowest + 1e-3 * overhead)


def base(constants: Sequence[float], sizes: Array, chip: Chip) -> tuple[Array, Array]:
    """(ms, the share of it that is no overhead): what the residual corrects, √(wave · roof)."""
    ms = np.sqrt(wave_ms(constants, sizes, chip) * roof_ms(constants, sizes, chip))
    return ms, np.clip(1 - 1e-3 * constants[3] / ms, 0.0, 1.0)


def features(constants: Sequence[float], sizes: Array, chip: Chip) -> Array:
    """What the residual is learned on, (rows, 30): sizes, intensity, tile and wave shares, the device's ratios."""
    flops, moved = work(sizes, chip["size"])
    b, m, n, k = sizes.T
    compute, memory = flops / chip["peak"], moved / chip["bandwidth"]
    roof = 1e3 * np.maximum(compute, memory)
    wave, fitted = wave_ms(constants, sizes, chip), roof_ms(constants, sizes, chip)
    found = [np.log(m), np.log(n), np.log(k), np.log(compute / memory), np.log(roof)]
    for high, wide in ((64, 64), (128, 64), (128, 128), (256, 128), (128, 256), (64, 256)):
        tiles = b * np.ceil(m / high) * np.ceil(n / wide)
        waves = tiles / chip["sm"]
        found += [np.log(tiles * high * wide / (b * m * n)), np.log(np.ceil(waves) / waves), np.log(waves)]
    ones = np.ones(len(sizes))
    ratios = (chip["peak"] / chip["bandwidth"], chip["sm"], chip["peak"] / chip["sm"], chip["peak"], chip["bandwidth"])
    found += [np.log(ratio) * ones for ratio in ratios]
    found += [np.log(wave / roof), np.log(fitted / wave)]
    return np.stack(found, axis=1)


def fit(sizes: Array, ms: Array, chip: Chip) -> tuple[float, ...]:
    """The nine constants of one device: each form by pattern search for the least mean |log(predicted / measured)|,
    with a weak pull towards `START` (0.01 · log², so that a constant that the rows do not show stays there).
    """
    start = np.log(START)

    def loss(form: Callable[[Sequence[float], Array, Chip], Array], part: slice) -> Callable[[Array], float]:
        def value(x: Array) -> float:
            point = start.copy()
            point[part] = x
            error = np.abs(np.log(form(np.exp(point).tolist(), sizes, chip) / ms)).mean()
            return float(error + 0.01 * np.square(x - start[part]).sum())

        return value

    wave = descend(loss(wave_ms, slice(0, 6)), start[:6])
    roof = descend(loss(roof_ms, slice(6, 9)), start[6:])
    return tuple(float(f"{c:.6g}") for c in np.exp(np.concatenate([wave, roof])))


def descend(loss: Callable[[Array], float], start: Array, step: float = 0.3, least: float = 2e-3) -> Array:
    """Pattern search (Hooke and Jeeves 1961): steps along each coordinate, halved where none helps."""
    x, best = start.copy(), loss(start)
    while step > least:
        better = False
        for axis in range(len(x)):
            for sign in (step, -step):
                trial = x.copy()
                trial[axis] += sign
                value = loss(trial)
                if value < best:
                    x, best, better = trial, value, True
                    break
        step = step if better else step / 2
    return x
