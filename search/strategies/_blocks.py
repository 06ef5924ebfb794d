"""Proposals planned in blocks by a model of the trials before: what `surrogate` and `linas` share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from archrank.search.objective import Objective
from archrank.search.strategies._planner import Fitted, Planner, predicted, promising
from archrank.search.strategies._pool import Choose, Pooled
from archrank.search.strategies.base import Fresh, Past, Taken, generator
from archrank.search.trial import PENDING, Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["InBlocks"]


class InBlocks(ABC):
    """A strategy whose proposal k is a function of the trials before its block and of the block's earlier proposals.
    The first proposals are samples, and so is one that a plan has no candidate for.
    """

    first: int
    """Trials before the first plan."""

    def __init__(self, space: Space, objectives: Sequence[Objective], seed: int) -> None:
        self._fresh, self._past, self._seed = Fresh(space), Past(objectives), seed
        self._planner = Planner(space, objectives)
        self._plan: tuple[list[Trial], list[Derivation]] = ([], [])
        self.choose: Choose = partial(promising, objectives=len(objectives))

    @abstractmethod
    def width(self, place: int) -> int:
        """The proposals of the block that proposal number `place` is in; blocks begin at its multiples."""

    @abstractmethod
    def chosen(
        self, fitted: Fitted, pooled: Pooled, known: Collection[str], width: int, rng: np.random.Generator
    ) -> list[Derivation]:
        """The next `width` proposals, best first, all different and none of the keys `known`; fewer where there are
        not as many.
        """

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """At most `n` new candidates."""
        seen = list(history)
        found: list[Derivation] = []
        self._past.update(seen)
        taken = Taken(self._past.keys)
        for _ in range(n):
            planned = (d for d in self._block(seen) if d.key not in taken)
            candidate = next(planned, None) or self._fresh.find(generator(self._seed, len(seen)), taken)
            if candidate is None:
                break
            taken.add(candidate.key)
            found.append(self._planner.read.add(candidate))
            seen.append(Trial(seen[-1].id + 1 if seen else 0, candidate.text, candidate.key, {}, state=PENDING))
        return found

    def _block(self, seen: list[Trial]) -> list[Derivation]:
        """The plan that the proposal after these trials is of."""
        place = len(seen)
        if place < self.first:
            return []
        width = self.width(place)
        begin = seen[: place - place % width]
        if self._plan[0] != begin:
            with self._planner.single_threaded():
                self._plan = begin, self._planned(begin, width)
        return self._plan[1]

    def _planned(self, begin: list[Trial], width: int) -> list[Derivation]:
        """[] where too few are measured."""
        fitted = self._planner.fitted(begin)
        if fitted is None:
            return []
        known, rng = {t.key for t in begin}, generator(self._seed, len(begin))
        believe = partial(predicted, fitted.beliefs)
        pooled = self._planner.pool.evolved(fitted.best, known, believe, self.choose, rng)
        return self.chosen(fitted, pooled, known, width, rng) if len(pooled.told) else []
