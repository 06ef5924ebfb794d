"""What a policy is, and counter-based random numbers for it.

A spectrum must be a function of (seed, step, global sample index) alone: then a resumed run, another batch split and
any number of devices draw the same ranks. A sequential generator cannot give that; a hash of the counters can.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["Policy", "counter_uniform"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection whose output bits depend on all
    input bits.
    """
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def counter_uniform(*counters: ArrayLike) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one for each tuple of (broadcast) non-negative integer counters, independent of any
    state.
    """
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for counter in counters:
            state = _mix((state + _GOLDEN) ^ _mix(np.asarray(counter, dtype=np.uint64) * _GOLDEN + _GOLDEN))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Policy(ABC):
    """Chooses the rank spectrum of each sample.

    modules: {name: (out_features, in_features)}, the adapted layers in model order; `r_max`: components held a module;
    `ranks`: the ranks to draw from (default: 0 and the powers of two up to r_max, with r_max itself).
    """

    def __init__(
        self, modules: Mapping[str, tuple[int, int]], r_max: int, seed: int = 0, ranks: Sequence[int] | None = None
    ) -> None:
        if r_max < 1:
            raise ValueError(f"r_max {r_max} must be at least 1")
        self.modules, self.r_max, self.seed = dict(modules), r_max, seed
        powers = [2**i for i in range(r_max.bit_length()) if 2**i < r_max]
        self.ranks = np.asarray(sorted(set(ranks)) if ranks is not None else [0, *powers, r_max])
        if self.ranks.min() < 0 or self.ranks.max() > r_max:
            raise ValueError(f"ranks {self.ranks.tolist()} must lie between 0 and r_max = {r_max}")
        self.limits = np.asarray([min(r_max, *shape) for shape in self.modules.values()])

    @abstractmethod
    def spectrum(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """C `(samples, modules, r_max)`, fp32, a function of (seed, step, sample index) alone."""
