"""LINAS: generations of the best that a predictor-guided evolution finds, predictors trained anew after each.

Cummings, Sarah, Sridhar et al.: A hardware-aware framework for accelerating neural architecture search across
modalities (DyNAS-T), 2022: alternate between measuring a population, fitting a predictor per objective, and a long
genetic search on the predictions whose best become the next population. The predictors are the surrogate's processes,
their means alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from archrank.search.objective import Objective
from archrank.search.strategies._planner import Planner, predicted, promising
from archrank.search.strategies.base import Fresh, Past, Taken, generator
from archrank.search.trial import PENDING, Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["LINAS", "STRATEGY"]

POPULATION = 20


class LINAS:
    """The first 20 proposals are samples; generation g is a function of the trials before it."""

    def __init__(self, space: Space, objectives: Sequence[Objective], seed: int) -> None:
        self._fresh, self._past, self._seed = Fresh(space), Past(objectives), seed
        self._planner = Planner(space, objectives)
        self._plan: tuple[list[Trial], list[Derivation]] = ([], [])

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """At most `n` new candidates."""
        seen = list(history)
        found: list[Derivation] = []
        self._past.update(seen)
        taken = Taken(self._past.keys)
        for _ in range(n):
            place = len(seen)
            begin = seen[: place - place % POPULATION]
            if self._plan[0] != begin:
                with self._planner.single_threaded():
                    self._plan = begin, self._generation(begin) if begin else []
            candidate = next((d for d in self._plan[1] if d.key not in taken), None)
            candidate = candidate or self._fresh.find(generator(self._seed, place), taken)
            if candidate is None:
                break
            taken.add(candidate.key)
            found.append(self._planner.read.add(candidate))
            seen.append(Trial(seen[-1].id + 1 if seen else 0, candidate.text, candidate.key, {}, state=PENDING))
        return found

    def _generation(self, begin: list[Trial]) -> list[Derivation]:
        """The next population: from the predicted front inwards, spread by crowding."""
        fitted = self._planner.fitted(begin)
        if fitted is None:
            return []
        choose = partial(promising, objectives=self._planner.objectives)
        rng = generator(self._seed, len(begin))
        keys = {t.key for t in begin}
        pooled = self._planner.pool.evolved(fitted.best, keys, partial(predicted, fitted.beliefs), choose, rng)
        found: dict[str, Derivation] = {}
        for i in choose(pooled.told, len(pooled.told)):
            candidate = pooled.read(int(i))
            if candidate is not None and candidate.key not in keys:
                found.setdefault(candidate.key, candidate)
            if len(found) == POPULATION:
                break
        return list(found.values())


STRATEGY = LINAS
