"""Local search: the neighbours of the best trial that still has unseen ones, in a random order.

White, Nolen, Savani: Exploring the loss landscape in neural architecture search, UAI 2021, with the restart replaced:
when the best trial has no unseen neighbour, the next best is taken. With several objectives the order is by Pareto rank
and crowding (Pareto local search, Paquete, Chiarandini, Stützle 2004).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from archrank.search.objective import Objective
from archrank.search.strategies.base import Fresh, Past, Sentences, Taken, generator
from archrank.search.strategies.nsga2 import survivors
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["STRATEGY", "LocalSearch"]

START = 10  # samples before the first step
BEST = 50  # trials whose neighbourhoods are looked at
_MUTANTS = 60  # mutants tried where neighbours cannot be listed


class LocalSearch:
    """The first 10 proposals are samples; a neighbour takes another way at one place of the derivation."""

    def __init__(self, space: Space, objectives: Sequence[Objective], seed: int) -> None:
        self._space, self._fresh, self._past, self._seed = space, Fresh(space), Past(objectives), seed
        self._read, self._paths = Sentences(space), space.paths()
        self._done: set[str] = set()  # keys whose listed neighbours are all taken: they stay so
        self._near: dict[str, list[Derivation | tuple[int, ...] | None]] = {}

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """At most `n` new candidates."""
        if self._past.update(history) is None:  # another history
            self._done.clear()
        taken = Taken(self._past.keys)
        best = self._best() if len(history) + n > START else []
        found: list[Derivation] = []
        for j in range(n):
            rng = generator(self._seed, len(history) + j)
            candidate = self._neighbour(best, taken, rng) if len(history) + j >= START else None
            candidate = candidate or self._fresh.find(rng, taken)
            if candidate is None:
                break
            taken.add(candidate.key)
            found.append(self._read.add(candidate))
        return found

    def _best(self) -> list[Derivation]:
        places = survivors(self._past.values(), self._past.violations(), BEST)
        parsed = [self._read(self._past.measured[i].text) for i in places]
        return [d for d in parsed if d is not None]

    def _neighbour(self, best: list[Derivation], taken: Container[str], rng: np.random.Generator) -> Derivation | None:
        for d in best:
            if d.key not in self._done:
                found = next((e for e in self._around(d) if e.key not in taken), None)
                if found is not None:
                    return found
                if self._paths is not None:
                    self._done.add(d.key)
        return None

    def _around(self, d: Derivation) -> Iterator[Derivation]:
        """Neighbours of one candidate in an order of its own, a function of (seed, candidate)."""
        rng = np.random.default_rng([self._seed, int(d.key[:15], 16)])
        if self._paths is None:
            for _ in range(_MUTANTS):
                try:
                    yield self._space.mutate(d, rng)
                except ValueError:  # a space of one sentence has no neighbour
                    return
            return
        near = self._near.get(d.key)
        if near is None:
            rows = self._paths.neighbours(np.array([self._paths.encode(d)]), rng)
            rows = rows[rng.permutation(len(rows))]
            near = self._near[d.key] = [tuple(row) for row in rows.tolist()]
        for i, row in enumerate(near):
            candidate = self._paths.decode(row) if isinstance(row, tuple) else row
            near[i] = candidate
            if candidate is not None:
                yield candidate


STRATEGY = LocalSearch
