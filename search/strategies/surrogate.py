"""Evolution guided by a Gaussian process on derivation features: greedy expected hypervolume, the default.

The first 16 proposals are samples. From then on a process for each objective (`_process`, `_warp`) is fitted to the
trials, an inner evolution on its predictions (`_pool`) gathers candidates, among them the neighbours of the best
trials, and the one of largest expected hypervolume improvement (`_gain`) times the probability of meeting the
constraints is proposed. What is proposed and not yet told counts at its predicted value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from archrank.search.objective import Objective
from archrank.search.pareto import crowding_distance, non_dominated, ranks
from archrank.search.strategies._gain import expected_gain
from archrank.search.strategies._model import Belief, Choice, Watched, chosen
from archrank.search.strategies._pool import Pool, pool_of
from archrank.search.strategies.base import Fresh, Past, generator
from archrank.search.strategies.nsga2 import survivors
from archrank.search.trial import PENDING, Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["STRATEGY", "Surrogate"]

Array = NDArray[np.float64]
START = 16  # trials before the first model
PARENTS = 24
FINAL = 200  # candidates whose expected gain is computed
MOST = 500  # trials that a model is fitted to: the best by rank and the latest
LATEST = 200
TUNED = (16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 200, 320, 500, 800, 1300, 2000)  # trials at which kernels are tuned
TUNED_ON = 128  # trials of them
REACH = 3.0
FIRST = 64


class Surrogate:
    """See the module. Proposals are planned in blocks, alone up to trial 64, then of 2, 4 and 8: proposal k is a
    function of the trials before its block and of the block's earlier proposals.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], seed: int) -> None:
        self._space, self._seed = space, seed
        self._fresh, self._past, self._pool = Fresh(space), Past(objectives), pool_of(space)
        self._parsed: dict[str, Derivation | None] = {}
        self._choices: dict[tuple[int, int], tuple[bytes, Choice]] = {}
        self._plan: tuple[list[Trial], list[Derivation]] = ([], [])

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """At most `n` new candidates."""
        seen = list(history)
        found: list[Derivation] = []
        self._past.update(history)
        taken = set(self._past.keys)
        for _ in range(n):
            candidate = self._next(seen, taken)
            if candidate is None:
                break
            taken.add(candidate.key)
            found.append(candidate)
            self._parsed[candidate.text] = candidate
            seen.append(Trial(seen[-1].id + 1 if seen else 0, candidate.text, candidate.key, {}, state=PENDING))
        return found

    def _next(self, seen: list[Trial], taken: set[str]) -> Derivation | None:
        place = len(seen)
        width = 1 if place < 64 else 2 if place < 128 else 4 if place < 256 else 8
        begin = seen[: place - place % width]
        if place >= START:
            if self._plan[0] != begin:
                self._plan = begin, self._planned(begin, width, generator(self._seed, len(begin)))
            for candidate in self._plan[1]:
                if candidate.key not in taken:
                    return candidate
        return self._fresh.find(generator(self._seed, place), taken)

    def _parse(self, text: str) -> Derivation | None:
        if text not in self._parsed:
            try:
                self._parsed[text] = self._space.parse(text)
            except ValueError:  # told from outside, not of this space
                self._parsed[text] = None
        return self._parsed[text]

    # -- one block --------------------------------------------------------------------------------------------------

    def _planned(self, begin: list[Trial], width: int, rng: np.random.Generator) -> list[Derivation]:
        """The next `width` proposals after these trials; [] where too few are measured."""
        self._past.update(begin)
        values, broken = self._past.values(), self._past.violations()
        parsed = [self._parse(t.text) for t in self._past.measured]
        rows = [i for i, d in enumerate(parsed) if d is not None and np.isfinite(values[i]).all()]
        if len(rows) < START // 2:
            return []
        known = [d for i in rows if (d := parsed[i]) is not None]
        y, broken = values[rows], broken[rows]
        x = self._pool.features(known)
        beliefs = self._beliefs(x, y, broken)
        feasible = y[broken == 0]
        best = [known[i] for i in survivors(y, broken, PARENTS)]
        front = feasible[non_dominated(feasible)]
        worst = _reference(feasible if len(feasible) else y)
        pending = [d for t in begin if t.state == PENDING and (d := self._parse(t.text)) is not None]
        keys = {t.key for t in begin}
        features, read = self._pool.evolved(best, keys, _Chooser(beliefs, y.shape[1]), rng)
        if not len(features):
            return []
        pick = _Chooser(beliefs, y.shape[1])(features, FINAL)
        queue = np.concatenate([features[pick], self._pool.features(pending)]) if pending else features[pick]
        greedy = _Greedy([b.watch(queue) for b in beliefs], y.shape[1], front, worst, rng)
        for i in range(len(pick), len(queue)):
            greedy.take(i)
        found: dict[str, Derivation] = {}
        while len(found) < width and (i := greedy.best(len(pick))) is not None:
            candidate = read(int(pick[i]))
            if candidate is None or candidate.key in keys or candidate.key in found:
                greedy.drop(i)
                continue
            found[candidate.key] = candidate
            greedy.take(i)
        return list(found.values())

    def _beliefs(self, x: Array, y: Array, broken: Array) -> list[Belief]:
        """Of each objective and, where a trial broke a constraint, of the violation (feasible: -1)."""
        columns = [y[:, j] for j in range(y.shape[1])]
        if (broken > 0).any():
            columns.append(np.where(broken > 0, 0.2 + np.minimum(np.nan_to_num(broken, posinf=1.0), 1.0), -1.0))
        kept = _kept(y, broken)
        return [Belief(x[kept], c[kept], self._pool.groups, self._choice(j, x, c)) for j, c in enumerate(columns)]

    def _choice(self, j: int, x: Array, y: Array) -> Choice:
        """Hyperparameters as they were tuned at the last of TUNED, on the first rows then there."""
        at = max((k for k in TUNED if k <= len(x)), default=len(x))
        data = y[:at].tobytes()
        held = self._choices.get((j, at))
        if held is None or held[0] != data:
            rows = _tuning_rows(y[:at])
            held = self._choices[j, at] = data, chosen(x[rows], y[rows], self._pool.groups)
        return held[1]


class _Chooser:
    """The most promising rows by predicted Pareto rank and crowding, those likely to be feasible first."""

    def __init__(self, beliefs: list[Belief], objectives: int) -> None:
        self._beliefs, self._objectives = beliefs, objectives

    def __call__(self, x: Array, n: int) -> NDArray[np.int64]:
        """(k, f) -> places of at most n rows."""
        mean = np.stack([b.mean(x) for b in self._beliefs], axis=1)
        values, broken = mean[:, : self._objectives], np.zeros(len(x))
        if mean.shape[1] > self._objectives:
            broken = np.maximum(mean[:, -1], 0.0)
        return np.array(survivors(values, broken, n), np.int64)


class _Greedy:
    """The candidate of largest expected gain, again and again, each taken at its mean."""

    def __init__(
        self, watched: list[Watched], objectives: int, front: Array, worst: Array, rng: np.random.Generator
    ) -> None:
        self._watched, self._m, self._front, self._worst, self._rng = watched, objectives, front, worst, rng
        self._left: NDArray[np.bool_] | None = None

    def best(self, count: int) -> int | None:
        """Among the first `count`; None where all are taken."""
        from scipy.special import ndtr

        told = [w.told() for w in self._watched]
        mean = np.stack([m for m, _ in told[: self._m]], axis=1)
        sd = np.stack([s for _, s in told[: self._m]], axis=1)
        gain = expected_gain(mean, sd, self._front, self._worst, self._rng)
        if len(told) > self._m:
            chance = ndtr(-told[-1][0] / told[-1][1])
            gain = gain * chance if len(self._front) else chance
        if self._left is None:
            self._left = np.ones(len(mean), dtype=bool)
        gain = np.where(self._left, gain, -np.inf)[:count]
        i = int(np.argmax(gain))
        return i if np.isfinite(gain[i]) else None

    def drop(self, i: int) -> None:
        """Not to be proposed."""
        assert self._left is not None
        self._left[i] = False

    def take(self, i: int) -> None:
        """Proposed: known at its mean from now on."""
        mean = np.array([w.told()[0][i] for w in self._watched[: self._m]])
        if self._left is None:
            self._left = np.ones(len(self._watched[0].told()[0]), dtype=bool)
        self._left[i] = False
        for w in self._watched:
            w.take(i)
        if len(self._front):
            self._front = np.vstack([self._front, mean])
            self._front = self._front[non_dominated(self._front)]


def _reference(values: Array) -> Array:
    """(n, m) -> (m,): the corner that gains are measured from: the worst of each objective over the first trials, but
    at most REACH times as far above the median as the median is above the first decile.
    """
    low, middle = np.quantile(values[:FIRST], (0.1, 0.5), axis=0)
    worst = np.minimum(values[:FIRST].max(0), middle + REACH * (middle - low))
    found: Array = worst + 0.1 * np.maximum(worst - low, 1e-9)
    return found


def _kept(y: Array, broken: Array) -> NDArray[np.int64]:
    if len(y) <= MOST:
        return np.arange(len(y))
    best = survivors(y[:-LATEST], broken[:-LATEST], MOST - LATEST)
    return np.sort(np.r_[best, np.arange(len(y) - LATEST, len(y))]).astype(np.int64)


def _tuning_rows(y: Array) -> NDArray[np.int64]:
    """At most TUNED_ON rows: the better half of them the best, the others evenly over the rest."""
    if len(y) <= TUNED_ON:
        return np.arange(len(y))
    order = np.argsort(y, kind="stable")
    half = TUNED_ON // 2
    rest = order[half:][np.linspace(0, len(y) - half - 1, TUNED_ON - half).astype(int)]
    return np.sort(np.r_[order[:half], rest]).astype(np.int64)


STRATEGY = Surrogate
