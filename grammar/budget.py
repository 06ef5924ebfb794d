"""Exact sampling and counting of one option per site under ranges on additive costs.

T_n[u] = 1 where low <= u <= high, T_i[u] = sum over options o of site i of w_o · T_{i+1}[u + c_o]: the
weight of finishing from cost u. Drawing o with probability proportional to w_o · T_{i+1}[u + c_o] is then
exact, without rejection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MOST_CELLS = 32_000_000
_MOST_BITS = 30_000_000_000


class Ranges:
    """The constraints of a budget after reduction to whole units.

    `costs[i]` is (options, dimensions) above the site's cheapest, in units; 0 <= low <= high per dimension.
    Ranges that cannot fail are dropped, proportional ones merged. `empty` where some range cannot be met
    for a plain reason.
    """

    def __init__(self, costs: Sequence[Ints], low: Sequence[int], high: Sequence[int]) -> None:
        least, most = sum(c.min(axis=0) for c in costs), sum(c.max(axis=0) for c in costs)
        columns: list[tuple[list[Ints], int, int]] = []
        self.empty = False
        for d in range(costs[0].shape[1]):
            base, top = (
                int(np.atleast_1d(least)[d]),
                int(np.atleast_1d(most)[d]) - int(np.atleast_1d(least)[d]),
            )
            lo, hi = max(low[d] - base, 0), min(high[d] - base, top)
            if lo > hi:
                self.empty = True
            elif lo > 0 or hi < top:
                columns.append(_in_units([c[:, d] - c[:, d].min() for c in costs], lo, hi))
        columns = _merged(columns)
        self.low = [c[1] for c in columns]
        self.high = [c[2] for c in columns]
        self.empty = self.empty or any(lo > hi for lo, hi in zip(self.low, self.high, strict=True))
        self.costs = [
            np.stack([c[0][i] for c in columns], axis=1) if columns else np.zeros((len(costs[i]), 0), np.int64)
            for i in range(len(costs))
        ]


def _in_units(column: list[Ints], low: int, high: int) -> tuple[list[Ints], int, int]:
    """Costs above the cheapest in units of their greatest common divisor, and the range in the same units."""
    unit = int(np.gcd.reduce(np.concatenate(column))) or 1
    return [c // unit for c in column], -(-low // unit), high // unit


def _merged(columns: list[tuple[list[Ints], int, int]]) -> list[tuple[list[Ints], int, int]]:
    """Proportional costs have equal units, so they are one cost under the tighter of both ranges."""
    kept: list[tuple[list[Ints], int, int]] = []
    for column, low, high in columns:
        for at, (other, lo, hi) in enumerate(kept):
            if all(np.array_equal(a, b) for a, b in zip(column, other, strict=True)):
                kept[at] = (other, max(lo, low), min(hi, high))
                break
        else:
            kept.append((column, low, high))
    return kept


class BudgetTable:
    """Draws one option per site from weights, conditioned on the ranges.

    Where the table would exceed `most_cells`, costs are rounded up to a coarser unit and the ranges
    inwards: the ranges hold all the same, some sentences near their ends are lost.
    """

    def __init__(self, ranges: Ranges, weights: Sequence[Floats], most_cells: int = MOST_CELLS) -> None:
        self.sites = len(weights)
        self._weights = [w / w.sum() for w in weights]
        costs, low, high = _coarsened(ranges, most_cells)
        self._costs = costs
        dims = len(low)
        self._after = [np.zeros(dims, np.int64)]
        for c in reversed(costs):
            self._after.append(self._after[-1] + c.max(axis=0, initial=0))
        self._after.reverse()
        self._low, self._high = np.array(low, np.int64), np.array(high, np.int64)
        self.empty = ranges.empty or bool((self._low > self._high).any())
        self._layers: list[tuple[Ints, Floats]] = []
        self.log_mass = 0.0
        """Natural logarithm of the weight inside the ranges, the weights of each site summing to 1."""
        if not self.empty:
            self._fill()

    def _window(self, i: int) -> tuple[Ints, Ints]:
        """First and last cost so far from which the range can be met, before site i."""
        before = self._after[0] - self._after[i]
        return np.maximum(0, self._low - self._after[i]), np.minimum(self._high, before)

    def _fill(self) -> None:
        first, last = self._window(self.sites)
        if (last < first).any():
            self.empty = True
            return
        layer = np.ones(tuple((last - first + 1).tolist()))
        layers = [(first, layer)]
        for i in range(self.sites - 1, -1, -1):
            first, last = self._window(i)
            after_first, after = layers[-1]
            now = np.zeros(tuple(np.maximum(last - first + 1, 0).tolist()))
            for cost, weight in zip(self._costs[i], self._weights[i], strict=True):
                start = np.maximum(first, after_first - cost)
                stop = np.minimum(last, after_first + after.shape - cost - 1)
                if (start <= stop).all():
                    to = tuple(slice(a, b) for a, b in zip(start - first, stop - first + 1, strict=True))
                    source = tuple(
                        slice(a, b)
                        for a, b in zip(start + cost - after_first, stop + cost - after_first + 1, strict=True)
                    )
                    now[to] += weight * after[source]
            top = now.max(initial=0.0)
            if top == 0:
                self.empty = True
                return
            layers.append((first, now / top))
            self.log_mass += math.log(top)
        self._layers = layers[::-1]

    def sample(self, rng: np.random.Generator, n: int) -> Ints:
        """Option indices of shape (n, sites)."""
        if self.empty:
            raise ValueError("the budget is empty")
        out = np.zeros((n, self.sites), np.int64)
        spent = np.zeros((n, len(self._low)), np.int64)
        uniform = rng.random((self.sites, n))
        for i in range(self.sites):
            first, layer = self._layers[i + 1]
            at = spent[:, None, :] + self._costs[i][None] - first
            shape = np.array(layer.shape, np.int64)
            inside = np.all((at >= 0) & (at < shape), axis=2)
            at = np.where(inside[:, :, None], at, 0)
            finishing = layer[tuple(np.moveaxis(at, 2, 0))] if len(shape) else np.ones((n, len(self._costs[i])))
            values = np.where(inside, finishing, 0.0) * self._weights[i]
            out[:, i] = _columns(values, uniform[i])
            spent += self._costs[i][out[:, i]]
        return out


def _columns(values: Floats, uniform: Floats) -> Ints:
    """For each row the column that its uniform number picks; never one of weight 0."""
    cumulative = np.cumsum(values, axis=1)
    target = uniform * cumulative[:, -1]
    return np.asarray((cumulative > target[:, None]).argmax(axis=1), np.int64)


def _coarsened(ranges: Ranges, most_cells: int) -> tuple[list[Ints], list[int], list[int]]:
    costs, low, high = [c.copy() for c in ranges.costs], list(ranges.low), list(ranges.high)
    while low and len(costs) * math.prod(h + 1 for h in high) > most_cells:
        widest = max(range(len(high)), key=lambda d: high[d])
        cells = len(costs) * math.prod(h + 1 for h in high)
        factor = max(
            2,
            math.ceil((cells / most_cells) ** (1 / sum(h > 64 for h in high) if any(h > 64 for h in high) else 1)),
        )
        for c in costs:
            c[:, widest] = -(-c[:, widest] // factor)
        low[widest] = -(-low[widest] // factor) + len(costs) if low[widest] > 0 else 0
        high[widest] //= factor
    return costs, low, high


def count(ranges: Ranges, options: Sequence[int]) -> int:
    """How many ways keep the ranges: a polynomial in the cost with its coefficients packed into one
    integer.

    Exact, unless that integer would be too long to work with, or several costs that are not proportional
    bind: then ten digits from the table in floating point, a lower bound where the table had to be
    coarsened.
    """
    if ranges.empty:
        return 0
    total = math.prod(options)
    if not ranges.low:
        return total
    bits = total.bit_length() + 1
    if len(ranges.low) > 1 or bits * (ranges.high[0] + 1) * sum(options) > _MOST_BITS:
        return _about(ranges, options)
    low, high = ranges.low[0], ranges.high[0]
    mask, packed = (1 << bits * (high + 1)) - 1, 1
    for costs in ranges.costs:
        packed = sum(packed << bits * int(c) for c in costs[:, 0] if c <= high) & mask
    # the digits' sum is below the base minus 1, so the remainder is that sum
    return (packed >> bits * low) % ((1 << bits) - 1)


def _about(ranges: Ranges, options: Sequence[int]) -> int:
    table = BudgetTable(ranges, [np.ones(n) for n in options])
    if table.empty:
        return 0
    tens = (table.log_mass + sum(math.log(n) for n in options)) / math.log(10)
    if tens < 15:
        return round(10**tens)
    digits: int = 10 ** (math.floor(tens) - 10)
    return int(10 ** (tens - math.floor(tens)) * 1e10) * digits
