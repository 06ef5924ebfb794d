"""A Gaussian process: linear and squared-exponential kernels of the features, averaged over their hyper-parameters.

    k(x, x') = v (w x·x' + (1 − w) exp(−|x − x'|² / 2ℓ²) + σ² [same])

x are standardised features over √(their number). w, ℓ and σ lie on a grid and are averaged by their posterior
probability, v is integrated out (inverse gamma), so that each point of the grid is a Student t (Rasmussen and Williams
2006, sections 2.7 and 5.2): with twenty candidates no single choice is safe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from archrank.predictors.surrogates._kernels import Scaled, scaled
from archrank.predictors.surrogates.base import Array, Estimate, checked, columns

__all__ = ["GaussianProcess"]

LINEAR = (0.0, 0.5, 1.0)
LENGTHS = (0.7, 1.5, 3.0)
NOISES = (0.03, 0.1, 0.3, 0.8)
SHAPE, SCALE = 1.0, 1.0
"""Inverse-gamma prior of v, in units of the variance of y: pseudo-samples over 2, and their sum of squares over 2."""
NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class _Point:
    """One choice of hyper-parameters, conditioned."""

    linear: float
    length: float
    noise: float
    factor: Array
    alpha: Array
    variance: float
    probability: float


class GaussianProcess:
    """`surrogates.Surrogate`; has no randomness."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, x: ArrayLike, y: ArrayLike) -> _Fitted:
        """Conditions every point of the grid; those of next to no probability are dropped."""
        table, values = checked(x, y)
        scaling = scaled(table)
        known = scaling(table)
        centre, spread = float(values.mean()), float(values.std()) or 1.0
        target, found = (values - centre) / spread, []
        grid = [(w, length, noise) for w, length, noise in product(LINEAR, LENGTHS, NOISES) if w < 1]
        grid += [(1.0, 1.0, noise) for noise in NOISES]
        for w, length, noise in grid:
            covariance = _kernel(known, known, w, length) + noise**2 * np.eye(len(known))
            factor: Array = np.linalg.cholesky(covariance).astype(np.float64)
            white = np.linalg.solve(factor, target)
            half = len(known) / 2 + SHAPE
            variance = (float(white @ white) / 2 + SCALE) / half
            evidence = -half * np.log(variance) - float(np.log(np.diag(factor)).sum())
            alpha = np.linalg.solve(factor.T, white)
            found.append(_Point(w, length, noise, factor, alpha, variance, evidence))
        best = max(point.probability for point in found)
        weighed = [replace(p, probability=float(np.exp(p.probability - best))) for p in found]
        total = sum(p.probability for p in weighed)
        kept = [p for p in weighed if p.probability > NEGLIGIBLE * total]
        return _Fitted(scaling, known, centre, spread, tuple(kept))


@dataclass(frozen=True)
class _Fitted:
    scaling: Scaled
    known: Array
    centre: float
    spread: float
    points: tuple[_Point, ...]

    def predict(self, x: ArrayLike) -> Estimate:
        """Mean and spread of the mixture."""
        new = self.scaling(columns(x, len(self.scaling.mean)))
        mean, square, total = np.zeros(len(new)), np.zeros(len(new)), 0.0
        freedom = len(self.known) + 2 * SHAPE
        for p in self.points:
            cross = _kernel(new, self.known, p.linear, p.length)
            own = p.linear * np.square(new).sum(axis=1) + (1 - p.linear)
            solved = np.linalg.solve(p.factor, cross.T)
            left = np.maximum(own - np.square(solved).sum(axis=0), 0.0) + p.noise**2
            told = cross @ p.alpha
            mean += p.probability * told
            square += p.probability * (told**2 + p.variance * left * freedom / (freedom - 2))
            total += p.probability
        mean, square = mean / total, square / total
        std = np.sqrt(np.maximum(square - mean**2, 1e-24))
        return Estimate(self.centre + self.spread * mean, self.spread * std)


def _kernel(a: Array, b: Array, linear: float, length: float) -> Array:
    inner = a @ b.T
    apart = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :] - 2 * inner
    return np.asarray(linear * inner + (1 - linear) * np.exp(-np.maximum(apart, 0.0) / (2 * length**2)))
