"""Candidates that a surrogate chooses among: an inner evolution whose fitness is what the models predict.

Where the space unrolls, whole generations are arrays of rows and only what is proposed becomes a sentence; elsewhere
sentences are varied one by one by the grammar.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from archrank.search.strategies._features import RowFeatures, word_features

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space
    from archrank.grammar.paths import Codes

__all__ = ["Pool", "RowPool", "TextPool", "pool_of"]

Array = NDArray[np.float64]
Predict = Callable[[Array], Array]
"""(k, f) features -> (k, p) predictions."""
Choose = Callable[[Array, int], NDArray[np.int64]]
"""(k, p) predictions, n -> places of the n most promising, best first."""

GENERATIONS = 4
CHILDREN = 100
NEIGHBOURS = 250
SAMPLES = 50
SURVIVORS = 40


@dataclass(frozen=True)
class Pooled:
    """features (k, f) and predictions (k, p) of candidates; `read(i)` is one of them, None where it breaks the bounds,
    `graph(i)` the key of what it writes.
    """

    features: Array
    told: Array
    read: Callable[[int], Derivation | None]
    graph: Callable[[int], str]


class Pool(ABC):
    """Candidates of one space, with features; `groups` numbers each feature's group."""

    groups: NDArray[np.int64]

    @abstractmethod
    def features(self, candidates: Sequence[Derivation]) -> Array:
        """(n, f)."""

    @abstractmethod
    def evolved(
        self,
        best: Sequence[Derivation],
        taken: Collection[str],
        predict: Predict,
        choose: Choose,
        rng: np.random.Generator,
    ) -> Pooled:
        """New candidates.

        best: the parents to begin with, best first; those that are not dominated have their neighbours looked at.
        """


class RowPool(Pool):
    """Of a space that unrolls; ValueError for another one."""

    def __init__(self, space: Space) -> None:
        paths = space.paths()
        if paths is None:
            raise ValueError(f"{space.name} does not unroll: TextPool has its candidates")
        self._space, self._paths, self._of = space, paths, RowFeatures(paths)
        self.groups = self._of.groups
        self._rows: dict[str, list[int]] = {}
        self._open = np.flatnonzero(paths.sizes > 1)
        self._known: dict[bytes, Derivation | None] = {}
        self._graphs: dict[bytes, str] = {}

    def _encoded(self, candidates: Sequence[Derivation]) -> Codes:
        for d in candidates:
            if d.key not in self._rows:
                self._rows[d.key] = self._paths.encode(d)
        return np.array([self._rows[d.key] for d in candidates], np.int64).reshape(len(candidates), -1)

    def features(self, candidates: Sequence[Derivation]) -> Array:
        """(n, f)."""
        return self._of(self._encoded(candidates))

    def evolved(
        self,
        best: Sequence[Derivation],
        taken: Collection[str],
        predict: Predict,
        choose: Choose,
        rng: np.random.Generator,
    ) -> Pooled:
        """See `Pool.evolved`."""
        elite = self._encoded(best)
        known = {row.tobytes() for row in self._encoded_taken(taken)}
        rows = self._new(np.concatenate([self._paths.neighbours(elite, rng, NEIGHBOURS), self._samples(rng)]), known)
        x = self._of(rows)
        told = predict(x)
        for _ in range(GENERATIONS):
            parents = np.concatenate([rows[choose(told, SURVIVORS)], elite[:10]])
            more = self._new(self._children(parents, rng), known)
            if len(more):
                x_more = self._of(more)
                rows, x = np.concatenate([rows, more]), np.concatenate([x, x_more])
                told = np.concatenate([told, predict(x_more)])
        return Pooled(x, told, lambda i: self._read(rows[i]), lambda i: self._graph(rows[i]))

    def _graph(self, row: Codes) -> str:
        """The key of the graph that a row writes, bounds unchecked."""
        name = row.tobytes()
        if name not in self._graphs:
            if len(self._graphs) > 20_000:
                self._graphs.clear()
            self._graphs[name] = self._space.graph_key(self._paths.written(row.tolist()))
        return self._graphs[name]

    def _encoded_taken(self, taken: Collection[str]) -> Codes:
        rows = [self._rows[key] for key in taken if key in self._rows]
        return np.array(rows, np.int64).reshape(len(rows), -1)

    def _read(self, row: Codes) -> Derivation | None:
        name = row.tobytes()
        if name not in self._known:
            if len(self._known) > 5000:
                self._known.clear()
            self._known[name] = self._paths.decode(row.tolist())
        return self._known[name]

    def _new(self, rows: Codes, known: set[bytes]) -> Codes:
        """Each row once, in their order, without those that are known (these become so) or do not fit."""
        rows = rows[self._paths.fits(rows)]
        kept = []
        for i, row in enumerate(rows):
            name = row.tobytes()
            if name not in known:
                known.add(name)
                kept.append(i)
        return rows[kept]

    def _samples(self, rng: np.random.Generator) -> Codes:
        return self._paths.reached(np.full((SAMPLES, len(self._paths.places)), -1), rng)

    def _children(self, parents: Codes, rng: np.random.Generator) -> Codes:
        a, b = parents[rng.integers(len(parents), size=(2, CHILDREN))]
        mix = rng.random((CHILDREN, 1)) < 0.7
        rows = np.where(mix & (rng.random(a.shape) < 0.5), b, a)
        rows = self._paths.reached(rows, rng)
        for share in (0.8, 0.4):
            self._mutate(rows, rng.random(CHILDREN) < share, rng)
        return self._paths.reached(rows, rng)

    def _mutate(self, rows: Codes, which: NDArray[np.bool_], rng: np.random.Generator) -> None:
        """One reached place of each of these takes another way, any with equal probability; in place."""
        score = np.where(rows[:, self._open] >= 0, rng.random((len(rows), len(self._open))), -1.0)
        place = self._open[score.argmax(1)]
        sizes = self._paths.sizes[place]
        at = np.flatnonzero(which & (score.max(1) >= 0))
        step = 1 + (rng.random(len(rows)) * (sizes - 1)).astype(np.int64)
        rows[at, place[at]] = (rows[at, place[at]] + step[at]) % sizes[at]


class TextPool(Pool):
    """Of any other space: fewer candidates, since each is made by itself."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._features: dict[str, Array] = {}
        self.groups = np.zeros(1, np.int64)

    def features(self, candidates: Sequence[Derivation]) -> Array:
        """(n, f)."""
        for d in candidates:
            if d.key not in self._features:
                self._features[d.key] = word_features(d)
        found = np.stack([self._features[d.key] for d in candidates])
        self.groups = np.zeros(found.shape[1], np.int64)
        return found

    def evolved(
        self,
        best: Sequence[Derivation],
        taken: Collection[str],
        predict: Predict,
        choose: Choose,
        rng: np.random.Generator,
    ) -> Pooled:
        """See `Pool.evolved`."""
        pool: dict[str, Derivation] = {}
        parents = list(best)
        for _ in range(2):
            for _ in range(20):
                child = self._child(parents, rng)
                if child is not None and child.key not in taken:
                    pool[child.key] = child
            found = list(pool.values())
            if found:
                parents = [found[i] for i in choose(predict(self.features(found)), 10)] + list(best[:6])
        found = list(pool.values())
        x = self.features(found) if found else np.zeros((0, len(self.groups)))
        return Pooled(x, predict(x), lambda i: found[i], lambda i: self._space.graph_key(found[i]))

    def _child(self, parents: Sequence[Derivation], rng: np.random.Generator) -> Derivation | None:
        a, b = (parents[int(k)] for k in rng.integers(len(parents), size=2))
        try:
            alone = a.key == b.key or rng.random() < 0.5
            return self._space.mutate(a, rng) if alone else self._space.crossover(a, b, rng)
        except ValueError:  # a space of one sentence has no neighbour
            return None


def pool_of(space: Space) -> Pool:
    """The pool that the space allows."""
    return TextPool(space) if space.paths() is None else RowPool(space)
