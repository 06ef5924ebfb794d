"""One rank for each group of modules and each step: neural low-rank adapter search as in LoNAS, Shears and SQFT
(Munoz et al. 2024).

c_l = 1[j < r_g(l)], r_g uniform over the space's ranks above 0, drawn once a step for each group g: query, key and
value of a layer are a group, gate and up are one, every other module stands alone (Shears' grouping). The heuristics
that those systems take home are `median` and `most`: they evaluate nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from archrank.supernet.policies.base import Policy, counter_uniform

__all__ = ["NLS"]

TOGETHER = (
    {"q", "k", "v", "q_proj", "k_proj", "v_proj", "query", "key", "value", "q_lin", "k_lin", "v_lin"},
    {"gate_proj", "up_proj", "w1", "w3"},
)


class NLS(Policy):
    """Group-shared rank lists."""

    draws_zero = False

    @property
    def groups(self) -> list[int]:
        """The group of each module, numbered in model order."""
        keys: list[tuple[str, int]] = []
        for place, name in enumerate(self.modules):
            parent, _, leaf = name.rpartition(".")
            kinds = [k for k, names in enumerate(TOGETHER) if leaf in names]
            keys.append((parent, -1 - kinds[0]) if kinds else (name, place))
        order = list(dict.fromkeys(keys))
        return [order.index(key) for key in keys]

    def spectrum(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """C `(samples, modules, r_max)`, the same for all samples of a step."""
        lists = self.ranks[self.ranks > 0]
        u = counter_uniform(self.seed, step, 13, np.asarray(self.groups))
        ranks = lists[np.minimum((u * len(lists)).astype(np.int64), len(lists) - 1)]
        return self.prefixes(np.broadcast_to(ranks, (len(samples), len(self.modules))))

    def median(self) -> dict[str, int]:
        """Every module at the middle of the list, (n − 1) // 2, as Shears' heuristic sub-adapter."""
        lists = sorted(self.ranks[self.ranks > 0].tolist(), reverse=True)
        return dict.fromkeys(self.modules, int(lists[(len(lists) - 1) // 2]))
