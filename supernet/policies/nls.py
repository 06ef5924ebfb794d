"""One rank for each group of modules and each step: neural low-rank adapter search as in LoNAS, Shears and SQFT
(Munoz et al. 2024).

c_l = 1[j < r_g(l)], r_g uniform over the space's ranks above 0, drawn once a step for each group g. By default query,
key and value of a layer are a group, gate and up are one, every other module stands alone (Shears' grouping);
`nls:layer` has one group a layer (SQFT's `share_rank_within_layer`); `groups` (`--rank-group`) are the user's own. The
heuristics that those systems take home, `median` and `most`, evaluate nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from archrank.grammar import match_modules
from archrank.supernet.policies.base import Policy, PolicyError, counter_uniform

__all__ = ["NLS"]

TOGETHER = (
    {"q", "k", "v", "q_proj", "k_proj", "v_proj", "query", "key", "value", "q_lin", "k_lin", "v_lin"},
    {"gate_proj", "up_proj", "w1", "w3", "wi_0", "wi_1"},
)


class NLS(Policy):
    """Group-shared rank lists.

    groups: patterns in PEFT's meaning (a comma list of suffixes, or a regular expression for the full name); the
    modules of one layer that one of them takes share a rank, modules that none takes stand alone. PolicyError for a
    pattern that takes no module, or a module that two of them take.
    """

    draws_zero = False

    def __init__(
        self,
        modules: Mapping[str, tuple[int, int]],
        r_max: int,
        seed: int = 0,
        ranks: Sequence[int] | None = None,
        groups: Sequence[str] = (),
    ) -> None:
        super().__init__(modules, r_max, seed, ranks)
        taken = _taken(list(self.modules), groups)
        keys = [(layer_of(n), taken[n]) if n in taken else n if groups else self.key(n) for n in self.modules]
        order = list(dict.fromkeys(keys))
        self.groups = [order.index(key) for key in keys]
        """The group of each module, numbered in model order."""

    def key(self, name: str) -> Hashable:
        """Alike for the modules that share a rank where the user names no groups."""
        parent, _, leaf = name.rpartition(".")
        kinds = [k for k, names in enumerate(TOGETHER) if leaf in names]
        return (parent, kinds[0]) if kinds else name

    def drawn(self, step: int) -> NDArray[np.int64]:
        """`(modules,)`: the ranks of a step."""
        lists = self.ranks[self.ranks > 0]
        u = counter_uniform(self.seed, step, 13, np.asarray(self.groups))
        found: NDArray[np.int64] = lists[np.minimum((u * len(lists)).astype(np.int64), len(lists) - 1)]
        return found

    def spectrum(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """C `(samples, modules, r_max)`, the same for all samples of a step."""
        return self.prefixes(np.broadcast_to(self.drawn(step), (len(samples), len(self.modules))))

    def median(self) -> dict[str, int]:
        """Every module at the middle of the list, (n − 1) // 2, as Shears' heuristic sub-adapter."""
        lists = sorted(self.ranks[self.ranks > 0].tolist(), reverse=True)
        return dict.fromkeys(self.modules, int(lists[(len(lists) - 1) // 2]))

    def most(self, steps: int) -> dict[str, int]:
        """Every module at the rank drawn for it most often in so many steps, the smaller one of equals."""
        drawn = np.stack([self.drawn(step) for step in range(steps)])
        counts = [np.unique(of, return_counts=True) for of in drawn.T]
        return {n: int(ranks[many.argmax()]) for n, (ranks, many) in zip(self.modules, counts, strict=True)}


class Layer(NLS):
    """One rank a layer."""

    def key(self, name: str) -> Hashable:
        """The layer."""
        return layer_of(name)


VARIANTS = {"layer": Layer}


def layer_of(name: str) -> str:
    """A module's name up to its last number; all of it but the leaf where it has none."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdecimal()), default=len(parts) - 2)
    return ".".join(parts[: last + 1])


def _taken(names: Sequence[str], groups: Sequence[str]) -> dict[str, int]:
    """{module: the pattern that takes it}."""
    found: dict[str, int] = {}
    for i, pattern in enumerate(groups):
        try:
            chosen = match_modules(pattern, names, names)
        except ValueError as error:
            raise PolicyError(f"group {pattern!r}: {error}") from None
        for name in chosen:
            if name in found:
                raise PolicyError(
                    f"group {pattern!r}: {name} is in the group {groups[found[name]]!r} already; a module has one rank"
                )
            found[name] = i
    return found
