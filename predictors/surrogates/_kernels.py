"""What the kernel surrogates share: scaled features, the kernel of shared choices, and products with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from archrank.predictors.surrogates.base import Array

__all__ = ["Scaled", "overlap", "scaled"]


@dataclass(frozen=True)
class Scaled:
    """Features at mean 0 and deviation 1 (columns that do not vary are left out), over √(their number)."""

    mean: Array
    spread: Array
    varied: Array

    def __call__(self, x: Array) -> Array:
        """(rows, features) -> (rows, varied features)."""
        kept = self.varied > 0
        return np.asarray((x[:, kept] - self.mean[kept]) / (self.spread[kept] * np.sqrt(max(1, kept.sum()))))


def scaled(x: Array) -> Scaled:
    """The scaling that `x` sets."""
    spread = x.std(axis=0)
    return Scaled(x.mean(axis=0), spread, (spread > 1e-12).astype(np.float64))


def overlap(a: Array, b: Array) -> Array:
    """Cosine of rows, (rows a, rows b); 0 for rows without anything."""
    na, nb = (np.maximum(np.linalg.norm(v, axis=1), 1e-12) for v in (a, b))
    return np.asarray((a @ b.T) / (na[:, None] * nb[None, :]))
