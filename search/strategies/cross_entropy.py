"""Cross-entropy method on the grammar itself: its probabilities move towards those of the best trials.

Rubinstein: The cross-entropy method for combinatorial and continuous optimization, 1999; on grammars it is estimation
of a PCFG from the elite (program evolution by grammar estimation, Bosman and de Jong 2004). `learned` gives the space
with the probabilities that were learned; `search run --write-space FILE` writes it as a space file.
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

__all__ = ["STRATEGY", "CrossEntropy", "learned"]

GENERATION = 20
ELITE = 1 / 4  # of the measured trials, at least 10
PRIOR = 4.0  # counts that the file's own probabilities weigh, per rule
LEAST = 0.02  # of the file's own probability that a production keeps


class CrossEntropy:
    """The first 20 proposals are samples; from then on samples of the space with learned probabilities, learned anew
    from all trials after each 20.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], seed: int) -> None:
        self._space, self._objectives, self._seed = space, objectives, seed
        self._fresh, self._past = Fresh(space), Past(objectives)
        self._learned: tuple[list[Trial], Space] = ([], space)
        self._read = Sentences(space)

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """At most `n` new candidates."""
        self._past.update(history)
        taken = Taken(self._past.keys)
        found: list[Derivation] = []
        for j in range(n):
            place = len(history) + j
            space = self._after(list(history[: place - place % GENERATION]))
            rng = generator(self._seed, place)
            candidate = self._fresh.find(rng, taken, partial(_drawn, space, rng))
            if candidate is None:
                break
            taken.add(candidate.key)
            found.append(self._read.add(candidate))
        return found

    def _after(self, trials: list[Trial]) -> Space:
        if self._learned[0] != trials:
            self._learned = trials, learned(self._space, self._objectives, trials, self._read)
        return self._learned[1]


def _drawn(space: Space, rng: np.random.Generator) -> Derivation:
    return space.sample(rng, 1)[0]


def learned(
    space: Space, objectives: Sequence[Objective], trials: Sequence[Trial], read: Sentences | None = None
) -> Space:
    """The space with p(α | A) = (c(A → α) + PRIOR p₀) / (c(A) + PRIOR), c the counts in the elite, p₀ its own p.

    The elite: the best quarter by Pareto rank and crowding, at least 10; the space itself below 10 measured trials.
    """
    past, read = Past(objectives), read or Sentences(space)
    past.update(trials)
    if len(past.measured) < 10:
        return space
    places = survivors(past.values(), past.violations(), max(10, round(ELITE * len(past.measured))))
    elite = [d for i in places if (d := read(past.measured[i].text)) is not None]
    counts = sum((space.production_counts(d) for d in elite), np.zeros(1, np.int64))
    found: dict[int, float] = {}
    for ways, own in space.probabilities:
        open_ = [(i, p) for i, p in zip(ways, own, strict=True) if p > 0]
        if len(open_) < 2:
            continue
        p0 = np.array([p for _, p in open_])
        c = counts[[i for i, _ in open_]] if len(counts) > 1 else np.zeros(len(open_))
        p = (c + PRIOR * p0) / (c.sum() + PRIOR)
        p = np.maximum(p, LEAST * p0)
        found |= {i: float(v) for (i, _), v in zip(open_, p / p.sum(), strict=True)}
    return space.with_probabilities(found)


STRATEGY = CrossEntropy
