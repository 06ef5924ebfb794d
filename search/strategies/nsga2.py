"""NSGA-II on sentences: variation by the grammar, selection by Pareto rank and crowding over the whole history.

Deb, Pratap, Agarwal, Meyarivan: A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE TEC 6(2),
2002; here steady-state (each proposal sees every trial before it), with Deb's constraint-domination, and
nothing is evaluated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from archrank.search.objective import Objective
from archrank.search.pareto import crowding_distance, ranks
from archrank.search.strategies._band import Band
from archrank.search.strategies.base import Fresh, Past, Sentences, Taken, generator, violation
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["NSGA2", "STRATEGY", "survivors"]

POPULATION = 20
CROSSOVER = 0.9  # probability that a child has two parents
MUTATION = 0.7  # probability that such a child is mutated too; a child of one parent always is


def survivors(values: NDArray[np.float64], violations: NDArray[np.float64], n: int) -> list[int]:
    """The best `n` rows of (k, m) minimised values, best first.

    Feasible rows by (rank, larger crowding distance within the rank), then infeasible ones by violation; ties
    by row.
    """
    feasible = np.flatnonzero((violations == 0) & np.isfinite(values).all(axis=1))
    level = ranks(values[feasible])
    chosen: list[int] = []
    for rank in range(int(level.max()) + 1 if len(level) else 0):
        front = feasible[level == rank]
        chosen += front[np.argsort(-crowding_distance(values[front]), kind="stable")].tolist()
        if len(chosen) >= n:
            return chosen[:n]
    broken = np.flatnonzero(violations > 0)
    chosen += broken[np.argsort(violations[broken], kind="stable")].tolist()
    return chosen[:n]


class NSGA2:
    """The first 20 proposals are samples; from then on each is a child of binary-tournament winners among the
    best 20 trials.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], seed: int) -> None:
        self._space, self._fresh, self._past, self._seed = space, Fresh(space), Past(objectives), seed
        self._read = Sentences(space)
        self._band = Band(POPULATION, len(objectives))
        self._best: list[Derivation] | None = []  # None: to be sorted anew

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """At most `n` new candidates."""
        self._take(self._past.update(history))
        parents = self._parents() if len(history) + n > POPULATION else []
        taken = Taken(self._past.keys)
        found: list[Derivation] = []
        for j in range(n):
            rng = generator(self._seed, len(history) + j)
            vary = len(history) + j >= POPULATION and bool(parents)
            candidate = self._fresh.find(rng, taken, partial(self._child, parents, rng) if vary else None)
            if candidate is None:
                break
            taken.add(candidate.key)
            found.append(self._read.add(candidate))
        return found

    def _take(self, measured: Sequence[Trial] | None) -> None:
        """Keeps the band up, so that a proposal does not cost the more the longer the history is."""
        if measured is None:
            self._band, self._best, measured = Band(POPULATION, len(self._past.objectives)), None, self._past.measured
        for trial in measured:
            if self._band.add(trial.id, np.array(self._past.row(trial)), violation(trial)):
                self._best = None

    def _parents(self) -> list[Derivation]:
        if self._best is None:
            ids, values, violations = self._band.rows()
            texts = [self._past.text(ids[i]) for i in survivors(values, violations, POPULATION)]
            self._best = [d for d in map(self._read, texts) if d is not None]
        return self._best

    def _child(self, parents: list[Derivation], rng: np.random.Generator) -> Derivation:
        a, b = self._winner(parents, rng), self._winner(parents, rng)
        if a.key == b.key or rng.random() >= CROSSOVER:
            return self._space.mutate(a, rng)
        child = self._space.crossover(a, b, rng)
        if child.key in (a.key, b.key) or rng.random() < MUTATION:
            return self._space.mutate(child, rng)
        return child

    def _winner(self, parents: list[Derivation], rng: np.random.Generator) -> Derivation:
        """The better of two; parents stand best first."""
        return parents[int(min(rng.integers(len(parents), size=2).tolist()))]


STRATEGY = NSGA2
