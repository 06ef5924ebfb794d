"""What every surrogate is, and the checks of what it is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Array", "Estimate", "Fitted", "Surrogate", "SurrogateError", "checked", "columns"]

Array = NDArray[np.float64]
FEWEST = 3
"""Candidates below which no spread can be told."""


class SurrogateError(ValueError):
    """An unknown surrogate, or values that none can be fitted to."""


@dataclass(frozen=True)
class Estimate:
    """Per candidate: `mean` and the standard deviation `std` of a new measurement, (m,) each."""

    mean: Array
    std: Array

    def interval(self, level: float = 0.9) -> tuple[Array, Array]:
        """The normal interval (low, high) that holds `level` of new measurements."""
        if not 0 < level < 1:
            raise SurrogateError(f"level = {level:g}, but it must be between 0 and 1")
        from statistics import NormalDist

        half = NormalDist().inv_cdf((1 + level) / 2) * self.std
        return self.mean - half, self.mean + half


class Fitted(Protocol):
    """A surrogate that has seen candidates."""

    def predict(self, x: ArrayLike) -> Estimate:
        """(m, features) -> their estimates; SurrogateError for another number of features."""


class Surrogate(Protocol):
    """A kind of model. `fit` changes nothing in it: the same values give the same model."""

    def __init__(self, seed: int = 0) -> None: ...

    def fit(self, x: ArrayLike, y: ArrayLike) -> Fitted:
        """`x` (n, features), `y` (n,). SurrogateError where they do not go together, hold what is not finite, or are
        fewer than three.
        """


def checked(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Both as float arrays."""
    table, values = columns(x), np.asarray(y, dtype=np.float64)
    if values.shape != (len(table),):
        raise SurrogateError(f"x has {len(table)} rows, y has shape {values.shape}: one value a candidate")
    if len(table) < FEWEST:
        raise SurrogateError(f"{len(table)} candidate(s) were given: a surrogate needs at least {FEWEST}")
    if not np.isfinite(values).all():
        raise SurrogateError("y holds a number that is not finite: leave failed candidates out")
    return table, values


def columns(x: ArrayLike, count: int | None = None) -> Array:
    """(rows, features), of `count` features where that is given."""
    table = np.asarray(x, dtype=np.float64)
    if table.ndim != 2:
        raise SurrogateError(f"x has shape {table.shape}, but it is (candidates, features)")
    if count is not None and table.shape[1] != count:
        raise SurrogateError(f"x has {table.shape[1]} features, but the model was fitted on {count}")
    if not np.isfinite(table).all():
        raise SurrogateError("x holds a number that is not finite")
    return table
