"""The trials that can be among the best n, kept while trials are added."""

from __future__ import annotations

from bisect import insort

import numpy as np
from numpy.typing import NDArray

__all__ = ["Band"]

Array = NDArray[np.float64]


class Band:
    """The rows of minimised values that fewer than n others dominate, and the n least violations of infeasible ones.

    Non-dominated sorting of these rows gives the best n of all (Deb et al. 2002, with constraint-domination): whatever
    dominates a row stands before it, so a row that n others dominate is not among them, and no front that is cut at n
    holds such a row. What dominates a row of the band lies in the band (the skyband of Papadias, Tao, Fu and Seeger,
    TODS 30(1), 2005), so that counts and ranks within it are those within all rows. The band depends on the rows and
    not on their order.
    """

    def __init__(self, n: int, objectives: int) -> None:
        self._n = n
        self._ids = np.zeros(0, np.int64)
        self._values = np.zeros((0, objectives))
        self._dominators = np.zeros(0, np.int64)
        self._broken: list[tuple[float, int]] = []

    def add(self, number: int, values: Array, violation: float) -> bool:
        """Takes in the row (m,) of trial `number`; whether the band is another one now."""
        if violation > 0:
            entry = (violation, number)
            if len(self._broken) == self._n and entry > self._broken[-1]:
                return False
            insort(self._broken, entry)
            del self._broken[self._n :]
            return True
        if not np.isfinite(values).all():
            return False
        below = (self._values <= values).all(axis=1)
        above = (self._values >= values).all(axis=1)
        dominators = int((below & ~above).sum())  # equal rows do not dominate each other
        if dominators >= self._n:
            return False
        self._dominators += above & ~below
        kept = self._dominators < self._n
        self._ids = np.append(self._ids[kept], number)
        self._values = np.vstack([self._values[kept], values])
        self._dominators = np.append(self._dominators[kept], dominators)
        return True

    def rows(self) -> tuple[list[int], Array, Array]:
        """(ids, values (k, m), violations (k,)) by id, infeasible rows with nan as values."""
        ids = np.concatenate([self._ids, [number for _, number in self._broken]]).astype(np.int64)
        order = np.argsort(ids)
        lost = np.full((len(self._broken), self._values.shape[1]), np.nan)
        values = np.concatenate([self._values, lost])[order]
        violations = np.concatenate([np.zeros(len(self._ids)), [v for v, _ in self._broken]])[order]
        return ids[order].tolist(), values, violations
