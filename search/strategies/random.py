"""Independent draws from the space's own distribution, nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from archrank.search.objective import Objective
from archrank.search.strategies.base import Fresh, Past, Taken, generator
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["STRATEGY", "Random"]


class Random:
    """Proposal k is the first new sample of the generator (seed, k)."""

    looks_at_values = False  # what is proposed stays the same where values are estimates

    def __init__(self, space: Space, objectives: Sequence[Objective], seed: int) -> None:
        self._fresh, self._past, self._seed = Fresh(space), Past(objectives), seed

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """At most `n` new samples."""
        self._past.update(history)
        taken = Taken(self._past.keys)
        found: list[Derivation] = []
        for j in range(n):
            candidate = self._fresh.find(generator(self._seed, len(history) + j), taken)
            if candidate is None:
                break
            taken.add(candidate.key)
            found.append(candidate)
        return found


STRATEGY = Random
