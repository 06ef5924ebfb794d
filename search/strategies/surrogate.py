"""Evolution guided by a Gaussian process on derivation features: greedy expected hypervolume, the default.

The first 16 proposals are samples. From then on a process for each objective (`_process`, `_warp`) is fitted to the
trials, an inner evolution on its predictions (`_pool`) gathers candidates, among them the neighbours of the best
trials, and the one of largest expected hypervolume improvement (`_gain`) times the probability of meeting the
constraints is proposed. What is proposed and not yet told counts at its predicted value.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from archrank.search.pareto import non_dominated
from archrank.search.strategies._blocks import InBlocks
from archrank.search.strategies._gain import expected_gain
from archrank.search.strategies._model import Watched
from archrank.search.strategies._planner import Fitted
from archrank.search.strategies._pool import Pooled

if TYPE_CHECKING:
    from archrank.grammar import Derivation

__all__ = ["STRATEGY", "Surrogate"]

Array = NDArray[np.float64]
BLOCKS = ((384, 16), (256, 8), (128, 4), (64, 2), (0, 1))  # from this trial on, so many proposals of one model
FINAL = 120  # candidates whose expected gain is computed
REACH = 3.0  # see `_reference`
FIRST = 64
PAIRS = 5  # sentences of one graph to see before their spread is believed


class Surrogate(InBlocks):
    """See the module. Proposals are planned in blocks, alone up to trial 64, then of 2 to 16."""

    first = 16  # with 8, 100 and 200 trials before the first model were measured to be worse

    def width(self, place: int) -> int:
        """By BLOCKS."""
        return next(n for least, n in BLOCKS if place >= least)

    def chosen(
        self, fitted: Fitted, pooled: Pooled, known: Collection[str], width: int, rng: np.random.Generator
    ) -> list[Derivation]:
        """By expected gain, one after the other."""
        pool, m = self._planner.pool, self._planner.objectives
        pick = self.choose(pooled.told, FINAL if not fitted.graphs else 3 * FINAL)
        if fitted.graphs:
            pick = _unlike(pick, pooled, fitted)
        queue = pooled.features[pick]
        if fitted.pending:
            queue = np.concatenate([queue, pool.features(fitted.pending)])
        feasible = fitted.values[fitted.feasible]
        front = feasible[non_dominated(feasible)]
        worst = _reference(feasible if len(feasible) else fitted.values)
        greedy = _Greedy([b.watch(queue) for b in fitted.beliefs], m, front, worst, rng)
        for place in range(len(pick), len(queue)):
            greedy.take(place)
        if fitted.graphs:
            _known_graphs(greedy, [pooled.graph(int(i)) for i in pick], fitted)
        found: dict[str, Derivation] = {}
        while len(found) < width and (i := greedy.best(len(pick))) is not None:
            candidate = pooled.read(int(pick[i]))
            if candidate is None or candidate.key in known or candidate.key in found:
                greedy.drop(i)
                continue
            found[candidate.key] = candidate
            greedy.take(i)
        return list(found.values())


def _unlike(pick: NDArray[np.int64], pooled: Pooled, fitted: Fitted) -> NDArray[np.int64]:
    """Of a literal space: at most FINAL of these, a quarter of them other sentences of graphs that were measured, or
    that stand before.
    """
    kept: list[int] = []
    again, seen = 0, set(fitted.graphs)
    for i in pick.tolist():
        graph = pooled.graph(i)
        again += graph in seen
        if graph in seen and again > FINAL // 4:
            continue
        seen.add(graph)
        kept.append(i)
        if len(kept) == FINAL:
            break
    return np.array(kept, np.int64)


def _known_graphs(greedy: _Greedy, graphs: Sequence[str], fitted: Fitted) -> None:
    """Another sentence of a measured graph is believed to have its values, give or take what such sentences were seen
    to differ by.
    """
    several = [rows for rows in fitted.graphs.values() if len(rows) > 1]
    apart = [fitted.values[rows] - fitted.values[rows].mean(0) for rows in several]
    pairs = sum(len(rows) - 1 for rows in several)
    seen = np.sqrt((np.concatenate(apart) ** 2).sum(0) / pairs) if pairs >= PAIRS else None
    for i, graph in enumerate(graphs):
        if rows := fitted.graphs.get(graph):
            greedy.known(i, fitted.values[rows].mean(0), seen)


class _Greedy:
    """The candidate of largest expected gain, again and again, each taken at its mean."""

    def __init__(
        self, watched: list[Watched], objectives: int, front: Array, worst: Array, rng: np.random.Generator
    ) -> None:
        self._watched, self._m, self._front, self._worst, self._rng = watched, objectives, front, worst, rng
        self._mean = np.stack([w.mean for w in watched], axis=1)
        self._left = np.ones(len(self._mean), dtype=bool)

    def best(self, count: int) -> int | None:
        """Among the first `count`; None where all are taken."""
        from scipy.special import ndtr

        sd = np.stack([w.deviation() for w in self._watched], axis=1)
        gain = expected_gain(self._mean[:, : self._m], sd[:, : self._m], self._front, self._worst, self._rng)
        if len(self._watched) > self._m:
            chance = ndtr(-self._mean[:, -1] / sd[:, -1])
            gain = gain * chance if len(self._front) else chance
        gain = np.where(self._left, gain, -np.inf)[:count]
        i = int(np.argmax(gain))
        return i if np.isfinite(gain[i]) else None

    def known(self, i: int, values: Array, sd: Array | None) -> None:
        """Believed to have these values (m,); sd None: with a quarter of the model's deviations."""
        self._mean[i, : self._m] = values
        for j, w in enumerate(self._watched[: self._m]):
            w.know(i, float(values[j]), None if sd is None else float(sd[j]))

    def drop(self, i: int) -> None:
        """Not to be proposed."""
        self._left[i] = False

    def take(self, i: int) -> None:
        """Proposed: known at its mean from now on."""
        self._left[i] = False
        for w in self._watched:
            w.take(i)
        if len(self._front):
            self._front = np.vstack([self._front, self._mean[i, : self._m]])
            self._front = self._front[non_dominated(self._front)]


def _reference(values: Array) -> Array:
    """(n, m) -> (m,): the corner that gains are measured from: the worst of each objective over the first trials, but
    at most REACH times as far above the median as the median is above the first decile.
    """
    low, middle = np.quantile(values[:FIRST], (0.1, 0.5), axis=0)
    worst = np.minimum(values[:FIRST].max(0), middle + REACH * (middle - low))
    found: Array = worst + 0.1 * np.maximum(worst - low, 1e-9)
    return found


STRATEGY = Surrogate
