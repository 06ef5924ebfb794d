"""LINAS: generations of the best that a predictor-guided evolution finds, predictors trained anew after each.

Cummings, Sarah, Sridhar et al.: A hardware-aware framework for accelerating neural architecture search across
modalities (DyNAS-T), 2022: alternate between measuring a population, fitting a predictor per objective, and a long
genetic search on the predictions whose best become the next population. The predictors are the surrogate's processes,
their means alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from archrank.search.strategies._blocks import InBlocks
from archrank.search.strategies._planner import Fitted
from archrank.search.strategies._pool import Pooled

if TYPE_CHECKING:
    from archrank.grammar import Derivation

__all__ = ["LINAS", "STRATEGY"]

POPULATION = 20


class LINAS(InBlocks):
    """The first 20 proposals are samples; generation g is a function of the trials before it."""

    first = POPULATION

    def width(self, place: int) -> int:
        """A generation."""
        return POPULATION

    def chosen(
        self, fitted: Fitted, pooled: Pooled, known: Collection[str], width: int, rng: np.random.Generator
    ) -> list[Derivation]:
        """From the predicted front inwards, spread by crowding."""
        found: dict[str, Derivation] = {}
        for i in self.choose(pooled.told, len(pooled.told)):
            candidate = pooled.read(int(i))
            if candidate is not None and candidate.key not in known:
                found.setdefault(candidate.key, candidate)
            if len(found) == width:
                break
        return list(found.values())


STRATEGY = LINAS
