"""Monotone maps of an objective's values before a model is fitted to them: what is far above the median is drawn in, so
that how bad a dead network is does not shape the model of the good ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["WARPS", "Warp", "warp"]

Array = NDArray[np.float64]
WARPS = ("none", "asinh", "rank")


@dataclass(frozen=True)
class Warp:
    """A rising piecewise-linear map through knots (k,) -> (k,), linear beyond them; `asinh` in closed form."""

    kind: str
    middle: float
    width: float
    knots: Array
    images: Array

    def __call__(self, y: Array) -> Array:
        """Values to warped values."""
        z = (y - self.middle) / self.width
        if self.kind == "asinh":
            return np.where(z > 0, np.arcsinh(3 * np.maximum(z, 0)) / 3, z)
        if self.kind == "rank":
            return _interpolated(z, self.knots, self.images)
        return z

    def back(self, z: Array) -> Array:
        """Warped values to values."""
        if self.kind == "asinh":
            z = np.where(z > 0, np.sinh(3 * np.clip(z, 0, 20)) / 3, z)
        elif self.kind == "rank":
            z = _interpolated(z, self.images, self.knots)
        return z * self.width + self.middle


def warp(kind: str, y: Array) -> Warp:
    """The map of a kind for values y (n,): units are the width from the first decile to the median."""
    low, middle = np.quantile(y, (0.1, 0.5))
    width = float(middle - low) or float(y.std()) or 1.0
    knots = images = np.zeros(0)
    if kind == "rank":
        # imported here: the module takes a third of a second
        from scipy.special import ndtri

        order = np.unique((y - middle) / width)
        place = np.searchsorted(np.sort((y - middle) / width), order, side="left")
        after = np.searchsorted(np.sort((y - middle) / width), order, side="right")
        knots, images = order, ndtri((place + after) / 2 / len(y))
    return Warp(kind, float(middle), width, knots, images)


def _interpolated(x: Array, xs: Array, ys: Array) -> Array:
    found: Array = np.interp(x, xs, ys)
    if len(xs) < 2:
        return x - (xs[0] if len(xs) else 0.0) + (ys[0] if len(ys) else 0.0)
    tail = min(len(xs) - 1, max(1, len(xs) // 10))
    for end, near, side in ((0, tail, x < xs[0]), (-1, -1 - tail, x > xs[-1])):
        slope = (ys[end] - ys[near]) / (xs[end] - xs[near])
        found = np.where(side, ys[end] + slope * (x - xs[end]), found)
    return found
