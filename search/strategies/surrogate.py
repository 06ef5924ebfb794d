"""Evolution guided by a Gaussian process on derivation features: greedy expected hypervolume, the default.

The first 16 proposals are samples. From then on a process for each objective (`_process`, `_warp`) is fitted to the
trials, an inner evolution on its predictions (`_pool`) gathers candidates, among them the neighbours of the best
trials, and the one of largest expected hypervolume improvement (`_gain`) times the probability of meeting the
constraints is proposed. What is proposed and not yet told counts at its predicted value.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from archrank.search.objective import Objective
from archrank.search.pareto import non_dominated
from archrank.search.strategies._gain import expected_gain
from archrank.search.strategies._model import Watched
from archrank.search.strategies._planner import Fitted, Planner, predicted, promising
from archrank.search.strategies._pool import Pooled
from archrank.search.strategies.base import Fresh, Past, generator
from archrank.search.trial import PENDING, Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["STRATEGY", "Surrogate"]

Array = NDArray[np.float64]
START = 16  # trials before the first model; with 8, 100 and 200 were measured to be worse
BLOCKS = ((384, 16), (256, 8), (128, 4), (64, 2), (0, 1))  # from this trial on, so many proposals of one model
FINAL = 120  # candidates whose expected gain is computed
REACH = 3.0  # see `_reference`
FIRST = 64
PAIRS = 5  # sentences of one graph to see before their spread is believed


class Surrogate:
    """See the module. Proposals are planned in blocks, alone up to trial 64, then of 2 to 16: proposal k is a
    function of the trials before its block and of the block's earlier proposals.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], seed: int) -> None:
        self._seed, self._fresh, self._past = seed, Fresh(space), Past(objectives)
        self._planner = Planner(space, objectives)
        self._plan: tuple[list[Trial], list[Derivation]] = ([], [])

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """At most `n` new candidates."""
        seen = list(history)
        found: list[Derivation] = []
        self._past.update(seen)
        taken = set(self._past.keys)
        for _ in range(n):
            candidate = self._next(seen, taken)
            if candidate is None:
                break
            taken.add(candidate.key)
            found.append(self._planner.read.add(candidate))
            seen.append(Trial(seen[-1].id + 1 if seen else 0, candidate.text, candidate.key, {}, state=PENDING))
        return found

    def _next(self, seen: list[Trial], taken: set[str]) -> Derivation | None:
        place = len(seen)
        width = next(n for least, n in BLOCKS if place >= least)
        begin = seen[: place - place % width]
        if place >= START:
            if self._plan[0] != begin:
                with self._planner.single_threaded():
                    self._plan = begin, self._planned(begin, width, generator(self._seed, len(begin)))
            for candidate in self._plan[1]:
                if candidate.key not in taken:
                    return candidate
        return self._fresh.find(generator(self._seed, place), taken)

    def _planned(self, begin: list[Trial], width: int, rng: np.random.Generator) -> list[Derivation]:
        """The next `width` proposals after these trials; [] where too few are measured."""
        fitted, pool, m = self._planner.fitted(begin), self._planner.pool, self._planner.objectives
        if fitted is None:
            return []
        keys = {t.key for t in begin}
        choose = partial(promising, objectives=m)
        pooled = pool.evolved(fitted.best, keys, partial(predicted, fitted.beliefs), choose, rng)
        if not len(pooled.told):
            return []
        pick = choose(pooled.told, FINAL if not fitted.graphs else 3 * FINAL)
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
            if candidate is None or candidate.key in keys or candidate.key in found:
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
