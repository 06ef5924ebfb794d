"""More work never takes less time: the least price above a correction that may fall.

A learned correction of a rising base can fall faster than the base rises, by a few per cent where a launch is most of
the time. The price taken is

    price(p) = max over a, b, c ≥ 0 of f(m / 2^a, n / 2^b, k / 2^c), each size ≥ 1, a + b + c ≤ DEPTH

which no doubling of a size can lower while the best point lies nearer than DEPTH. f = base · exp(share · g) with g ≤
top, so that points whose base · exp(share · top) is below the best so far need no look, nor do the points below them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SLACK = 1.003
"""A fall by this factor is let pass, so that plateaus are not searched for nothing."""
DEPTH = 4
"""Halvings that are looked back over, all sizes together: on plateaus the lattice has thousands of points, and a price
further down than 3 was not seen to win.
"""


def rising(
    sizes: Array,
    axes: Sequence[int],
    base: Callable[[Array], tuple[Array, Array]],
    correction: Callable[[Array], Array],
    top: float,
) -> Array:
    """The price of each row: `sizes` (rows, letters); `axes`, the letters that may double; `base` gives base ms and
    the share of it that is corrected, `correction` gives g, both of rows of sizes.
    """
    floor, share = base(sizes)
    best = floor * np.exp(share * correction(sizes))
    row, point, last = np.arange(len(sizes)), sizes, np.zeros(len(sizes), dtype=np.intp)
    for _ in range(DEPTH):
        row, point, last = _halved(row, point, last, axes)
        floor, share = base(point)
        open_ = floor * np.exp(share * max(top, 0.0)) > SLACK * best[row]
        row, point, last = row[open_], point[open_], last[open_]
        if not len(row):
            break
        price = floor[open_] * np.exp(share[open_] * correction(point))
        np.maximum.at(best, row, price)
    return best


def _halved(
    row: NDArray[np.intp], point: Array, last: NDArray[np.intp], axes: Sequence[int]
) -> tuple[NDArray[np.intp], Array, NDArray[np.intp]]:
    """Each point with one size halved, sizes in order, so that no point comes twice."""
    rows, points, lasts = [], [], []
    for place, axis in enumerate(axes):
        can = (last <= place) & (point[:, axis] >= 2)
        child = point[can].copy()
        child[:, axis] /= 2
        rows.append(row[can])
        points.append(child)
        lasts.append(np.full(len(child), place, dtype=np.intp))
    return np.concatenate(rows), np.concatenate(points), np.concatenate(lasts)
