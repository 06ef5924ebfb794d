"""Gradient-boosted trees (scikit-learn's, Friedman 2001), eight of them on bootstrap samples.

mean: of the members. std² = variance of the members + mean squared error out of bag (of the candidates that a member
did not see), which is the noise and what trees of this size miss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from archrank.predictors.surrogates.base import Array, Estimate, checked, columns

__all__ = ["Trees"]

MEMBERS = 8
TREES, RATE, DEPTH, SHARE = 100, 0.08, 3, 0.7


class Trees:
    """`surrogates.Surrogate`; `seed` draws the bootstrap samples."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, x: ArrayLike, y: ArrayLike) -> _Fitted:
        """Grows the members."""
        from sklearn.ensemble import GradientBoostingRegressor

        table, values = checked(x, y)
        rng, n, members = np.random.default_rng(self.seed), len(values), []
        errors: list[float] = []
        for _ in range(MEMBERS):
            drawn = rng.integers(n, size=n)
            model = GradientBoostingRegressor(
                n_estimators=TREES,
                learning_rate=RATE,
                max_depth=DEPTH,
                subsample=SHARE,
                max_features="sqrt",
                random_state=int(rng.integers(2**31)),
            )
            members.append(model.fit(table[drawn], values[drawn]))
            unseen = np.setdiff1d(np.arange(n), drawn)
            errors += np.square(model.predict(table[unseen]) - values[unseen]).tolist() if len(unseen) else []
        noise = float(np.mean(errors)) if errors else float(values.var())
        return _Fitted(tuple(members), noise, table.shape[1])


@dataclass(frozen=True)
class _Fitted:
    members: tuple[Any, ...]
    noise: float
    count: int

    def predict(self, x: ArrayLike) -> Estimate:
        """Mean and spread."""
        table = columns(x, self.count)
        told: Array = np.stack([np.asarray(member.predict(table)) for member in self.members])
        return Estimate(told.mean(axis=0), np.sqrt(told.var(axis=0) + max(self.noise, 1e-24)))
