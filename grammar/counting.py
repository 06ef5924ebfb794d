"""Counting tables: the weight, or the number, of subtrees of each expanded size.

W[s][n] = sum over options o of s of w_o · S_o0[n - size_o], and S_oj[n] = sum over m of W[child_j][m] ·
S_o,j+1[n - copies_j · m].
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archrank.grammar.skeleton import Option, Skeleton

MOST_SIZE = 5_000
_MOST_CELLS = 4_000_000
_CACHED = 4_000_000
Table = NDArray[Any]


class SizeTable:
    """Weights of subtrees by state and expanded size 0..limit.

    With `exact` these are numbers of subtrees as Python integers, otherwise probabilities times exp(tilt ·
    n): the tilt keeps far sizes from underflowing and is taken out where sizes are compared. Raises
    ValueError where the table would not fit.
    """

    def __init__(self, skeleton: Skeleton, limit: int, exact: bool = False) -> None:
        self.skeleton, self.limit, self.exact, self.tilt = skeleton, limit, exact, 0.0
        check_limit(skeleton, limit)
        self._fixed = [largest == 0 for largest in skeleton.largest]
        self._order = _same_size_order(skeleton)
        self._fill()
        for _ in range(0 if exact else 3):
            if not self._retilted():
                break
            self._fill()
        self._choices: dict[tuple[int, int], tuple[list[float], list[int]]] = {}
        self._splits: dict[tuple[int, int, int, int], tuple[list[float], list[int]]] = {}
        self._ranges: dict[tuple[int, int, int], list[Table]] = {}
        self._held = 0

    def _retilted(self) -> bool:
        """Whether far sizes are near underflow; then the tilt that brings the least weight back to 1."""
        weights = self.weights[self.skeleton.start]
        positive = np.flatnonzero(weights)
        if len(positive) == 0:
            return False
        least = int(positive[np.argmin(weights[positive])])
        if least == 0 or weights[least] > 1e-150:
            return False
        self.tilt += -math.log(weights[least]) / least
        return True

    def _fill(self) -> None:
        kind = object if self.exact else np.float64

        def zero() -> Table:
            return np.zeros(self.limit + 1, dtype=kind)

        self.weights: list[Table] = [zero() for _ in self.skeleton.options]
        self.suffix: list[list[list[Table]]] = [
            [[zero() for _ in o.children] for o in ways] for ways in self.skeleton.options
        ]
        for n in range(self.limit + 1):
            for state in self._order:
                total: Any = 0
                for option, tails in zip(self.skeleton.options[state], self.suffix[state], strict=True):
                    rest = n - option.size
                    if rest >= 0:
                        total += self._weight(option) * self._suffix(option, tails, rest)
                self.weights[state][n] = total

    def _weight(self, option: Option) -> Any:
        return 1 if self.exact else option.weight * math.exp(self.tilt * option.size)

    def _suffix(self, option: Option, tails: list[Table], n: int) -> Any:
        """Fills S_oj[n] for every j, last child first, and gives S_o0[n]."""
        value: Any = int(n == 0)
        for j in range(len(option.children) - 1, -1, -1):
            child, copies = option.children[j], option.copies[j]
            after = tails[j + 1] if j + 1 < len(tails) else None
            weights = self.weights[child]
            if self._fixed[child]:
                value = weights[0] * value
            elif after is None:
                value = weights[n // copies] * self._copied(n // copies, copies) if n % copies == 0 else 0
            else:
                top = n // copies
                parts = weights[: top + 1]
                if copies > 1 and self.tilt:
                    parts = parts * np.exp(self.tilt * (copies - 1) * np.arange(top + 1))
                value = np.dot(parts, after[n - copies * top : n + 1 : copies][::-1])
            tails[j][n] = value
        return value

    def _copied(self, m: int, copies: int) -> Any:
        """Copies beyond the first carry the tilt too: a subtree of size m stands for copies · m."""
        return math.exp(self.tilt * (copies - 1) * m) if self.tilt else 1

    def option_weights(self, state: int, low: int, high: int) -> list[Table]:
        """For each option of a state its untilted weights over sizes max(low, 0)..high, on one common
        scale.
        """
        low, high = max(low, 0), min(high, self.limit)
        known = self._ranges.get((state, low, high))
        if known is not None:
            return known
        found = []
        for option, tails in zip(self.skeleton.options[state], self.suffix[state], strict=True):
            values = np.zeros(max(0, high - low + 1))
            first = max(low, option.size)
            if tails and first <= high:
                inside = tails[0][first - option.size : high + 1 - option.size].astype(float)
                values[first - low :] = inside * self._weight(option)
                values *= np.exp(-self.tilt * np.arange(len(values)))
            elif not tails and low <= option.size <= high:
                values[option.size - low] = self._weight(option) * math.exp(-self.tilt * (option.size - low))
            found.append(values)
        self._keep(sum(map(len, found)))
        self._ranges[state, low, high] = found
        return found

    def choice(self, state: int, n: int) -> tuple[list[float], list[int]]:
        """Cumulative weights and option indices of a state at size n."""
        found = self._choices.get((state, n))
        if found is None:
            weights: list[float] = []
            indices: list[int] = []
            for index, (option, tails) in enumerate(zip(self.skeleton.options[state], self.suffix[state], strict=True)):
                rest = n - option.size
                value = 0.0 if rest < 0 else self._weight(option) * float(tails[0][rest] if tails else rest == 0)
                if value > 0:
                    weights.append(value)
                    indices.append(index)
            found = (list(accumulate(weights)), indices)
            self._keep(len(indices))
            self._choices[state, n] = found
        return found

    def split(self, state: int, index: int, j: int, n: int) -> tuple[list[float], list[int]]:
        """Cumulative weights and sizes of child j, when children j, j+1, … share the size n."""
        found = self._splits.get((state, index, j, n))
        if found is None:
            option, tails = self.skeleton.options[state][index], self.suffix[state][index]
            child, copies = option.children[j], option.copies[j]
            top = n // copies
            sizes = np.arange(top + 1)
            last = j + 1 == len(tails)
            after: Table = np.where(copies * sizes == n, 1.0, 0.0) if last else tails[j + 1][n - copies * sizes]
            values = self.weights[child][: top + 1] * after
            if copies > 1 and self.tilt:
                values = values * np.exp(self.tilt * (copies - 1) * sizes)
            kept = np.flatnonzero(values)
            found = (np.cumsum(values[kept]).tolist(), kept.tolist())
            self._keep(len(kept))
            self._splits[state, index, j, n] = found
        return found

    def _keep(self, count: int) -> None:
        self._held += count
        if self._held > _CACHED:
            self._choices.clear()
            self._splits.clear()
            self._ranges.clear()
            self._held = count


def check_limit(skeleton: Skeleton, limit: int) -> None:
    """Raises ValueError where tables up to size `limit` would take too much time or memory."""
    slots = sum(1 + len(option.children) for ways in skeleton.options for option in ways) + len(skeleton.options)
    if limit > MOST_SIZE or slots * (limit + 1) > _MOST_CELLS:
        most = max(0, min(MOST_SIZE, _MOST_CELLS // slots - 1))
        raise ValueError(
            f"max size = {limit:,} is more than the counting tables of this grammar hold: give at most {most:,}"
        )


def _same_size_order(skeleton: Skeleton) -> tuple[int, ...]:
    """States such that what an option without a size of its own needs at the same size comes first."""
    mark, order = [0] * len(skeleton.options), []
    for root in range(len(skeleton.options)):
        todo = [(root, False)]
        while todo:
            state, done = todo.pop()
            if done:
                order.append(state)
            elif mark[state] == 0:
                mark[state] = 1
                todo.append((state, True))
                for option in skeleton.options[state]:
                    if option.size == 0:
                        todo.extend((child, False) for child in option.children)
    return tuple(order)
