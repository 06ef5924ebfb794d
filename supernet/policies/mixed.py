"""An independent rank for each sample and module (the default).

c_{i,l} = 1[j < r_{i,l}], r_{i,l} uniform over the space's ranks, except that one row in eight runs all modules at
their largest rank: random rank vectors almost never visit that corner, and without it budgets cannot be compared. In
the pilot of this project's findings this rule gave the best inherited loss at equal compute and a Kendall τ of .48–.53
against converged runs at equal parameter count, where counting parameters gave .05.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from archrank.supernet.policies.base import Policy, counter_uniform

__all__ = ["Mixed"]

MAX_RANK_SHARE = 1 / 8


class Mixed(Policy):
    """Per-sample, per-module ranks with a share of max-rank rows."""

    def uniform(
        self, step: int, samples: Sequence[int] | NDArray[np.int64], ranks: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Independent ranks `(samples, modules)`, each of `ranks` alike."""
        index = np.asarray(samples, dtype=np.int64)[:, None]
        u = counter_uniform(self.seed, step, index, np.arange(1, len(self.modules) + 1)[None])
        drawn: NDArray[np.int64] = ranks[np.minimum((u * len(ranks)).astype(np.int64), len(ranks) - 1)]
        return drawn

    def draw(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """The ranks themselves, the share of rows at the largest ones included."""
        index = np.asarray(samples, dtype=np.int64)[:, None]
        full = counter_uniform(self.seed, step, index, 0) < MAX_RANK_SHARE
        drawn: NDArray[np.int64] = np.where(full, self.r_max, self.uniform(step, samples, self.ranks))
        return drawn

    def spectrum(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """C `(samples, modules, r_max)`: ones up to each drawn rank."""
        return self.prefixes(self.draw(step, samples))
