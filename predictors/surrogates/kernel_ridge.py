"""Kernel ridge regression on shared choices: k(x, x') = ((1/2 + cos(x, x')) / (3/2))³.

x are features over their spread, not centred, so that the cosine is the share of choices in common. The ridge is the
one of least squared leave-one-out error, whose residuals are closed forms: r_i = α_i / (C⁻¹)_ii with C = K + λ I. They
also scale the spread: std² = s² (k(x, x) + λ − kᵀ C⁻¹ k) with s² = mean of α_i² / (C⁻¹)_ii, the mean squared residual
in units of its own variance (Rasmussen and Williams 2006, equations 5.10 to 5.12).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from archrank.predictors.surrogates._kernels import overlap
from archrank.predictors.surrogates.base import Array, Estimate, checked, columns

__all__ = ["KernelRidge"]

RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)


class KernelRidge:
    """`surrogates.Surrogate`; has no randomness."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, x: ArrayLike, y: ArrayLike) -> _Fitted:
        """The ridge of least leave-one-out error."""
        table, values = checked(x, y)
        spread = table.std(axis=0)
        weight = np.where(spread > 1e-12, 1 / np.maximum(spread, 1e-12), 0.0)
        known, centre = table * weight, float(values.mean())
        kernel, found = _kernel(known, known), []
        for ridge in RIDGES:
            inverse: Array = np.linalg.inv(kernel + ridge * np.eye(len(known))).astype(np.float64)
            alpha, diagonal = inverse @ (values - centre), np.diag(inverse)
            fitted = _Fitted(weight, known, centre, ridge, inverse, alpha, float(np.mean(alpha**2 / diagonal)))
            found.append((float(np.mean((alpha / diagonal) ** 2)), fitted))
        return min(found, key=lambda pair: pair[0])[1]


@dataclass(frozen=True)
class _Fitted:
    weight: Array
    known: Array
    centre: float
    ridge: float
    inverse: Array
    alpha: Array
    variance: float

    def predict(self, x: ArrayLike) -> Estimate:
        """Mean and spread."""
        cross = _kernel(columns(x, len(self.weight)) * self.weight, self.known)
        left = 1 + self.ridge - np.einsum("ij,jk,ik->i", cross, self.inverse, cross, optimize=True)
        std = np.sqrt(np.maximum(self.variance * np.maximum(left, self.ridge), 1e-24))
        return Estimate(self.centre + cross @ self.alpha, std)


def _kernel(a: Array, b: Array) -> Array:
    """1 for the same candidate."""
    return np.asarray(((0.5 + overlap(a, b)) / 1.5) ** 3)
