"""Fixed shares of each batch at the largest and at the smallest ranks, the rest drawn as `mixed` draws (Yu and Huang,
Universally Slimmable Networks, ICCV 2019).

c_{i,l} = 1[j < r_{i,l}]: r = r_max for a quarter of the rows, the smallest rank for another, else independent and
uniform. All over the space's ranks above 0: a row whose modules are all left alone would train nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from archrank.supernet.policies.base import counter_uniform
from archrank.supernet.policies.mixed import Mixed

__all__ = ["Sandwich"]

LARGEST, SMALLEST = 1 / 4, 1 / 4


class Sandwich(Mixed):
    """Max, min and mixed rows."""

    draws_zero = False

    def spectrum(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """C `(samples, modules, r_max)`."""
        index = np.asarray(samples, dtype=np.int64)[:, None]
        u = counter_uniform(self.seed, step, index, len(self.modules) + 1)
        ranks = np.where(u < LARGEST, self.r_max, self.uniform(step, samples, self.ranks[self.ranks > 0]))
        smallest = self.ranks[self.ranks > 0].min()
        return self.prefixes(np.where((u >= LARGEST) & (u < LARGEST + SMALLEST), smallest, ranks))
