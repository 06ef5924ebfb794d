"""A device fitted to a few measured networks of one stack: a Gaussian process on measured ms / predicted ms.

For a network with uncalibrated ms t₀ and parts x (ms that its ops take by kind: predicted, launches, activation bytes,
FLOPs, weight bytes, biases; `archrank.predictors.network`) the ratio r = measured / t₀ has prior mean 1 and covariance

    s₀² + a² · Σ_j τ_j² (x_j / t₀)(x'_j / t₀') · (1 + κ² exp(−|u − u'|² / 2ℓ²)) + σ² [same]

s₀ a scale of the whole stack, τ_j a change of each part's price, which may itself depend on the network's shape u (log
FLOPs per element, log elements per op); σ noise. a and σ are not picked but averaged over a grid by their posterior
probability (Rasmussen and Williams 2006, section 5.2), so that one measured network gives a scale and fifty a model:
log-normal about a small σ where a is large; two points of small a and large σ stand for a stack that is only a scale.
The interval is the 90 % of the average's normal, stretched by what the measured networks themselves show: with z_i the
residual of network i, left out, in units of its own standard deviation (ibid., equations 5.10 to 5.12),

    stretch = √((3 + Σ z_i²) / (3 + n)) · √(1 + 8 / n)

so that a stack which the covariance does not fit gets wider intervals; 8 / n stands for what n networks leave unknown
of the covariance itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STACK = 1.0
PARTS: Mapping[str, float] = {"ms": 1.0, "launch": 3.0, "moved": 3.0, "compute": 1.0, "weights": 1.0}
"""τ by part."""
SHAPE, LENGTH = 0.5, 2.0
LOOSE = ((0.01, 0.05), (0.01, 0.1))
"""(a, σ) of a stack that is a scale and no more: what the ops' prices miss is taken for noise."""
SCALES = (0.3, 1.0, 3.0)
NOISES = (0.001, 0.002, 0.004, 0.01, 0.03)
LIKELY_NOISE, NOISE_SPREAD = 0.002, 0.5
"""Repeated measurements differ by 0.04 to 0.2 % on GPUs, by 2 to 9 % on CPUs (HW-GPT-Bench)."""
NORMAL_90 = 1.645
EXTRA = 8.0
TRUSTED = 3.0
"""Networks that the covariance's own spread counts as, against the residuals of those left out."""
NEGLIGIBLE = 1e-4


@dataclass(frozen=True)
class Parts:
    """What a calibration sees of networks: `names` of the parts, `ms` (n, parts), `total` t₀ (n,), `shape` (n, 2)."""

    names: tuple[str, ...]
    ms: Array
    total: Array
    shape: Array


@dataclass(frozen=True)
class _Model:
    """A point of the grid, conditioned on the measured networks: Cholesky factor, weights, probability."""

    scale: float
    noise: float
    factor: Array
    alpha: Array
    probability: float


@dataclass(frozen=True)
class Calibration:
    """`known` the measured networks, `ratio` (n,) measured / t₀, for `dtype`; conditioned at first use."""

    dtype: str
    known: Parts
    ratio: Array

    def __call__(self, parts: Parts) -> tuple[Array, Array]:
        """(mean, half width of the 90 % interval) of the ratio of each network, (n,) each."""
        mean, square, total = np.zeros(len(parts.total)), np.zeros(len(parts.total)), 0.0
        linear, own = self._between(parts)
        for model in self._models:
            cross = STACK**2 + model.scale**2 * linear
            told = 1 + cross @ model.alpha
            solved = np.linalg.solve(model.factor, cross.T)
            prior = STACK**2 + model.scale**2 * own + model.noise**2
            variance = np.maximum(prior - np.einsum("ij,ij->j", solved, solved), model.noise**2)
            mean += model.probability * told
            square += model.probability * (variance + told**2)
            total += model.probability
        mean, square = mean / total, square / total
        return mean, NORMAL_90 * self._stretch * np.sqrt(np.maximum(square - mean**2, 1e-12))

    @cached_property
    def _stretch(self) -> float:
        """How much wider than the model's own the interval is (formula above)."""
        n, off, total = len(self.ratio), self.ratio - 1, 0.0
        mean, square = np.zeros(n), np.zeros(n)
        for model in self._models:
            inverse = np.linalg.inv(model.factor @ model.factor.T)
            variance = 1 / np.diag(inverse)
            told = off - model.alpha * variance
            mean += model.probability * told
            square += model.probability * (variance + told**2)
            total += model.probability
        mean, square = mean / total, square / total
        z = (off - mean) ** 2 / np.maximum(square - mean**2, 1e-12)
        return math.sqrt((TRUSTED + float(z.sum())) / (TRUSTED + n) * (1 + EXTRA / n))

    @cached_property
    def _models(self) -> tuple[_Model, ...]:
        linear, _ = self._between(self.known)
        unit, off = np.eye(len(self.ratio)), self.ratio - 1
        found = []
        for scale, noise, log_prior in _grid():
            factor = np.linalg.cholesky(STACK**2 + scale**2 * linear + noise**2 * unit)
            white = np.linalg.solve(factor, off)
            log_evidence = log_prior - 0.5 * float(white @ white) - float(np.log(np.diag(factor)).sum())
            found.append(
                _Model(scale, noise, np.asarray(factor), np.asarray(np.linalg.solve(factor.T, white)), log_evidence)
            )
        best = max(model.probability for model in found)
        weighed = [replace(model, probability=math.exp(model.probability - best)) for model in found]
        return tuple(model for model in weighed if model.probability > NEGLIGIBLE)

    @cached_property
    def _weights(self) -> Array:
        return np.array([PARTS[name.split(".")[1]] for name in self.known.names])

    def _between(self, parts: Parts) -> tuple[Array, Array]:
        """The sum over parts: of `parts` with the known networks, (n, known), and with themselves, (n,)."""
        place = {name: column for column, name in enumerate(parts.names)}
        shared = np.zeros((len(parts.total), len(self.known.names)))
        for column, name in enumerate(self.known.names):
            if name in place:
                shared[:, column] = parts.ms[:, place[name]]
        share = shared / parts.total[:, None] * self._weights
        mine = self.known.ms / self.known.total[:, None] * self._weights
        apart = ((parts.shape[:, None, :] - self.known.shape[None, :, :]) ** 2).sum(axis=2)
        tau = np.array([PARTS[name.split(".")[1]] for name in parts.names])
        own = np.square(parts.ms / parts.total[:, None] * tau).sum(axis=1) * (1 + SHAPE**2)
        linear = (share @ mine.T) * (1 + SHAPE**2 * np.exp(-apart / (2 * LENGTH**2)))
        return linear, own

    def to_table(self) -> dict[str, Any]:
        """As TOML values: the section `[calibration]` of a device's file."""
        return {
            "dtype": self.dtype,
            "parts": list(self.known.names),
            "part_ms": [[float(f"{x:.8g}") for x in row] for row in self.known.ms.tolist()],
            "predicted_ms": self.known.total.tolist(),
            "shape": self.known.shape.tolist(),
            "ratio": self.ratio.tolist(),
        }


def _grid() -> list[tuple[float, float, float]]:
    """(a, σ, log prior) of each point."""
    loose = [(scale, noise, 0.0) for scale, noise in LOOSE]
    usual = {noise: -0.5 * (math.log(noise / LIKELY_NOISE) / NOISE_SPREAD) ** 2 for noise in NOISES}
    return loose + [(scale, noise, log_prior) for scale in SCALES for noise, log_prior in usual.items()]


def from_table(table: Mapping[str, object]) -> Calibration:
    """What `to_table` gave; ValueError says which key is wrong."""
    wanted = ("dtype", "parts", "part_ms", "predicted_ms", "shape", "ratio")
    for key in (*wanted, *table):
        if key not in table or key not in wanted:
            fault = "is missing" if key not in table else "is unknown"
            raise ValueError(f"{key} {fault}: it holds {', '.join(wanted)}. Write it again with `search calibrate`")
    names = table["parts"]
    if not isinstance(names, list) or not all(str(n).rpartition(".")[2] in PARTS for n in names):
        raise ValueError(f"parts = {names!r}, but it lists names such as linear.ms")
    total, ratio = _numbers(table, "predicted_ms", 1), _numbers(table, "ratio", 1)
    ms, shape = _numbers(table, "part_ms", 2), _numbers(table, "shape", 2)
    n = len(ratio)
    if not (n and ms.shape == (n, len(names)) and shape.shape == (n, 2) and total.shape == (n,)):
        raise ValueError(f"{n} ratios do not go with the sizes of part_ms, predicted_ms and shape: one row a network")
    return Calibration(str(table["dtype"]), Parts(tuple(map(str, names)), ms, total, shape), ratio)


def _numbers(table: Mapping[str, object], key: str, axes: int) -> Array:
    given: Any = table[key]
    try:
        array = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key} is not an array of numbers") from error
    if array.ndim != axes or not np.isfinite(array).all() or (key in ("predicted_ms", "ratio") and (array <= 0).any()):
        raise ValueError(f"{key} must be finite numbers in {axes} dimension(s), times above 0")
    return array


def names_of(kinds: Sequence[str]) -> tuple[str, ...]:
    """The names of the parts of ops of these kinds, in order."""
    return tuple(f"{kind}.{part}" for kind in kinds for part in PARTS)
