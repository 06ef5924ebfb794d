"""Regularised evolution: a mutant of the best of a few among the latest trials; the oldest dies.

Real, Aggarwal, Huang, Le: Regularized evolution for image classifier architecture search, AAAI 2019. With several
objectives the best is by Pareto rank and crowding, with Deb's constraint-domination; nothing is evaluated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from archrank.search.objective import Objective
from archrank.search.strategies.base import Fresh, Past, Sentences, Taken, generator
from archrank.search.strategies.nsga2 import survivors
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["STRATEGY", "RegularizedEvolution"]

POPULATION = 20  # 50 was measured to be slower up to 500 trials
TOURNAMENT = 5


class RegularizedEvolution:
    """The first 20 proposals are samples; then each mutates the best of 5 drawn from the latest 20 measured trials."""

    def __init__(self, space: Space, objectives: Sequence[Objective], seed: int) -> None:
        self._space, self._fresh, self._past, self._seed = space, Fresh(space), Past(objectives), seed
        self._read = Sentences(space)

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """At most `n` new candidates."""
        self._past.update(history)
        alive = self._alive() if len(history) + n > POPULATION else []
        taken = Taken(self._past.keys)
        found: list[Derivation] = []
        for j in range(n):
            rng = generator(self._seed, len(history) + j)
            vary = len(history) + j >= POPULATION and bool(alive)
            candidate = self._fresh.find(rng, taken, partial(self._mutant, alive, rng) if vary else None)
            if candidate is None:
                break
            taken.add(candidate.key)
            found.append(self._read.add(candidate))
        return found

    def _alive(self) -> list[Derivation]:
        """The latest trials, best first."""
        values, broken = self._past.values(POPULATION), self._past.violations(POPULATION)
        latest = self._past.measured[-POPULATION:]
        parsed = [self._read(latest[i].text) for i in survivors(values, broken, POPULATION)]
        return [d for d in parsed if d is not None]

    def _mutant(self, alive: list[Derivation], rng: np.random.Generator) -> Derivation:
        return self._space.mutate(alive[int(rng.integers(len(alive), size=TOURNAMENT).min())], rng)


STRATEGY = RegularizedEvolution
