"""Few-shot transfer: latencies of every network on an unseen device from a handful of its own and other devices' all.

Log latency is a Gaussian process whose covariance is a sum of linear kernels, each with a weight of its own:

    k = 1/4 + w_s² Z Zᵀ / S + w_m² z̄ z̄ᵀ + w_f² F Fᵀ / D (+ w_p² p pᵀ)      noise σ²

Z the standardised log latencies on the S source devices, z̄ their mean, F the standardised features (one-hot choices
and analytic counts), p the logarithm of a prior such as FLOPs or a roofline's ms. With a handful of samples no single
choice of weights is safe, so that all on a grid are averaged by their posterior probability; the common scale is
integrated out (inverse gamma), which makes each a Student t. Networks that a device compiles away (a thousandth of the
median) are held at a factor of e below the 2 % quantile, so that they do not set the scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archrank.predictors.profile import DeviceError

Array = NDArray[np.float64]
CONSTANT = 0.25
WEIGHTS = (0.0, 0.3, 1.0)
NOISES = (0.03, 0.1, 0.3)
SHAPE, SCALE = 1.0, 0.1
"""Inverse-gamma prior of the squared scale: pseudo-samples over 2, and their sum of squares over 2."""
Z90 = 1.645


@dataclass(frozen=True)
class Transferred:
    """Per row: `ms` and its 90 % interval `low` … `high`, arrays of one length."""

    ms: Array
    low: Array
    high: Array


def transfer(
    features: ArrayLike, sources_ms: ArrayLike, known: Mapping[int, float], prior: ArrayLike | None = None
) -> Transferred:
    """`features` (rows, D), `sources_ms` (rows, S) latencies on other devices, `known` {row: ms} on the new one,
    `prior` (rows,) something that grows with latency, such as FLOPs. The interval is a new measurement's.

    `DeviceError` (a ValueError) where shapes do not go together, a row is out of range, fewer than two are known, or a
    latency is no positive number.
    """
    x, sources = _matrix("features", features), _matrix("sources_ms", sources_ms)
    rows, measured = _known(known, len(x))
    if len(sources) != len(x):
        raise DeviceError(f"features has {len(x)} rows, sources_ms {len(sources)}: one row a network in both")
    _positive("sources_ms", sources)
    blocks = list(_blocks(x, np.log(sources)))
    if prior is not None:
        given = _matrix("prior", np.asarray(prior, dtype=np.float64)[:, None])
        if len(given) != len(x):
            raise DeviceError(f"prior has {len(given)} rows, features {len(x)}: one a network")
        _positive("prior", given)
        blocks.append(_standard(np.log(given)))
    target = _held(np.log(measured)[:, None])[:, 0]
    mean, spread = _averaged([(b @ b[rows].T, np.square(b).sum(axis=1)) for b in blocks], rows, target)
    return Transferred(np.exp(mean), np.exp(mean - Z90 * spread), np.exp(mean + Z90 * spread))


def _averaged(kernels: Sequence[tuple[Array, Array]], rows: NDArray[np.intp], target: Array) -> tuple[Array, Array]:
    """(mean, standard deviation) of log ms of every row, over the grid of weights and noises."""
    centre, n = float(target.mean()), len(target)
    off = target - centre
    logs, means, squares = [], [], []
    for weights in product(WEIGHTS, repeat=len(kernels)):
        if not any(weights):
            continue
        cross = CONSTANT + np.sum([w**2 * k for w, (k, _) in zip(weights, kernels, strict=True)], axis=0)
        own = CONSTANT + np.sum([w**2 * d for w, (_, d) in zip(weights, kernels, strict=True)], axis=0)
        for noise in NOISES:
            factor = np.linalg.cholesky(cross[rows] + noise**2 * np.eye(n))
            white = np.linalg.solve(factor, off)
            variance = (float(white @ white) + 2 * SCALE) / (n + 2 * SHAPE)
            logs.append(-(n / 2 + SHAPE) * np.log(variance) - float(np.log(np.diag(factor)).sum()))
            told = cross @ np.linalg.solve(factor.T, white)
            solved = np.linalg.solve(factor, np.asarray(cross).T)
            left = np.maximum(own - np.square(solved).sum(axis=0), 0.0) + noise**2
            means.append(told)
            squares.append(told**2 + variance * left * (n + 2 * SHAPE) / (n + 2 * SHAPE - 2))
    probability = np.exp(np.asarray(logs) - max(logs))
    probability /= probability.sum()
    mean = probability @ np.asarray(means)
    return centre + mean, np.sqrt(np.maximum(probability @ np.asarray(squares) - mean**2, 1e-12))


def _blocks(x: Array, logs: Array) -> Iterator[Array]:
    z = _standard(_held(logs))
    if z.shape[1]:
        yield z / np.sqrt(z.shape[1])
        yield _standard(z.mean(axis=1, keepdims=True))
    varied = _standard(x)
    if varied.shape[1]:
        yield varied / np.sqrt(varied.shape[1])


def _standard(table: Array) -> Array:
    """Columns that vary, at mean 0 and deviation 1."""
    spread = table.std(axis=0)
    return np.asarray((table - table.mean(axis=0))[:, spread > 1e-12] / spread[spread > 1e-12])


def _held(logs: Array) -> Array:
    """Held at 1 below the 2 % quantile of each column."""
    return np.maximum(logs, np.quantile(logs, 0.02, axis=0) - 1.0)


def _matrix(name: str, given: ArrayLike) -> Array:
    try:
        table = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DeviceError(f"{name} is not an array of numbers: {error}") from error
    if table.ndim != 2 or not len(table):
        raise DeviceError(f"{name} has shape {table.shape}, but it is (rows, columns) with a row a network")
    if not np.isfinite(table).all():
        raise DeviceError(f"{name} holds a number that is not finite: leave such rows out")
    return table


def _positive(name: str, table: Array) -> None:
    wrong = table[table <= 0]
    if wrong.size:
        raise DeviceError(f"{name} holds {wrong.flat[0]:g}, but each must be above 0")


def _known(known: Mapping[int, float], count: int) -> tuple[NDArray[np.intp], Array]:
    rows, ms = np.array(list(known), dtype=np.intp), np.array(list(known.values()), dtype=np.float64)
    if len(rows) < 2:
        raise DeviceError(f"{len(rows)} measured latencies were given: transfer needs at least 2, ten are good")
    outside = rows[(rows < 0) | (rows >= count)]
    if len(outside):
        raise DeviceError(f"measured row {outside[0]} is not one of the {count} rows of features")
    wrong = ms[~(np.isfinite(ms) & (ms > 0))]
    if wrong.size:
        raise DeviceError(f"a measured latency is {wrong[0]:g} ms, but each must be above 0 and finite")
    return rows, ms
