"""What is believed after some trials: a process for each objective, and the trials to start from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from archrank.search.objective import Objective
from archrank.search.strategies._model import Belief, Choice, chosen
from archrank.search.strategies._pool import pool_of
from archrank.search.strategies._process import CHUNK
from archrank.search.strategies.base import Past, Sentences
from archrank.search.strategies.nsga2 import survivors
from archrank.search.trial import PENDING, Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["Fitted", "Planner", "predicted", "promising"]

Array = NDArray[np.float64]
LEAST = 8  # measured trials that a model needs
PARENTS = 24
MOST = 512  # trials that a model is fitted to: the best by rank and the latest
TUNED = (16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 200, 320, 500, 800, 1300, 2000)
"""Trials at which kernels are tuned."""
TUNED_ON = 128  # trials of them


@dataclass(frozen=True)
class Fitted:
    """beliefs: of each objective, then of the violation where one was seen; best: parents, best first; values (n, m)
    minimised and feasible (n,) of the trials; pending: candidates that are being measured; graphs: in a literal space
    the rows of `values` by graph.
    """

    beliefs: list[Belief]
    best: list[Derivation]
    values: Array
    feasible: NDArray[np.bool_]
    pending: list[Derivation]
    graphs: dict[str, list[int]]


class Planner:
    """Fits after any history; factors and hyperparameters are kept from one to the next, bit for bit what they would be
    anew.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective]) -> None:
        self.objectives, self.read, self.pool = len(objectives), Sentences(space), pool_of(space)
        self.space, self._past = space, Past(objectives)
        self._graphs: dict[str, str] = {}
        self._threads: Any = None
        self._choices: dict[tuple[int, int], tuple[bytes, Choice]] = {}
        self._last: dict[int, Belief] = {}

    def single_threaded(self) -> AbstractContextManager[object]:
        """Linear algebra on one thread: these matrices are so small that threads wait for each other longer than they
        compute, and on a busy machine many times longer.
        """
        if self._threads is None:
            from threadpoolctl import ThreadpoolController

            self._threads = ThreadpoolController()
        found: AbstractContextManager[object] = self._threads.limit(limits=1, user_api="blas")
        return found

    def fitted(self, trials: Sequence[Trial]) -> Fitted | None:
        """None where too few are measured."""
        self._past.update(trials)
        values, broken = self._past.values(), self._past.violations()
        parsed = [self.read(t.text) for t in self._past.measured]
        rows = [i for i, d in enumerate(parsed) if d is not None and np.isfinite(values[i]).all()]
        if len(rows) < LEAST:
            return None
        known = [d for i in rows if (d := parsed[i]) is not None]
        y, broken = values[rows], broken[rows]
        beliefs = self._beliefs(self.pool.features(known), y, broken)
        best = [known[i] for i in survivors(y, broken, PARENTS)]
        pending = [d for t in trials if t.state == PENDING and (d := self.read(t.text)) is not None]
        graphs: dict[str, list[int]] = {}
        for i, d in enumerate(known if self.space.is_literal else ()):
            graphs.setdefault(self.graph(d), []).append(i)
        return Fitted(beliefs, best, y, broken == 0, pending, graphs)

    def graph(self, d: Derivation) -> str:
        """The key of a candidate's graph."""
        if d.key not in self._graphs:
            self._graphs[d.key] = self.space.graph_key(d)
        return self._graphs[d.key]

    def _beliefs(self, x: Array, y: Array, broken: Array) -> list[Belief]:
        """Of each objective and, where a trial broke a constraint, of the violation (feasible: -1)."""
        columns = [y[:, j] for j in range(y.shape[1])]
        if (broken > 0).any():
            columns.append(np.where(broken > 0, 0.2 + np.minimum(np.nan_to_num(broken, posinf=1.0), 1.0), -1.0))
        kept = _kept(y, broken)
        for j, c in enumerate(columns):
            self._last[j] = Belief(x[kept], c[kept], self.pool.groups, self._choice(j, x, c), self._last.get(j))
        return [self._last[j] for j in range(len(columns))]

    def _choice(self, j: int, x: Array, y: Array) -> Choice:
        """Hyperparameters as they were tuned at the last of TUNED, on the first rows then there."""
        at = max((k for k in TUNED if k <= len(x)), default=len(x))
        data = y[:at].tobytes()
        held = self._choices.get((j, at))
        if held is None or held[0] != data:
            rows = _tuning_rows(y[:at])
            held = self._choices[j, at] = data, chosen(x[rows], y[rows], self.pool.groups)
        return held[1]


def predicted(beliefs: Sequence[Belief], x: Array) -> Array:
    """(k, f) -> (k, beliefs)."""
    return np.stack([b.mean(x) for b in beliefs], axis=1)


def promising(told: Array, n: int, objectives: int) -> NDArray[np.int64]:
    """At most n rows by predicted Pareto rank and crowding, those that look feasible first."""
    broken = np.maximum(told[:, objectives], 0.0) if told.shape[1] > objectives else np.zeros(len(told))
    return np.array(survivors(told[:, :objectives], broken, n), np.int64)


def _kept(y: Array, broken: Array) -> NDArray[np.int64]:
    """The rows that models are fitted to: all up to MOST, then half of MOST the best and half the latest, chosen anew
    each time that CHUNK rows have come, and what came since.
    """
    whole = len(y) // CHUNK * CHUNK
    if whole <= MOST:
        return np.arange(len(y))
    best = survivors(y[: whole - MOST // 2], broken[: whole - MOST // 2], MOST // 2)
    return np.concatenate([np.sort(best), np.arange(whole - MOST // 2, len(y))]).astype(np.int64)


def _tuning_rows(y: Array) -> NDArray[np.int64]:
    """At most TUNED_ON rows: the better half of them the best, the others evenly over the rest."""
    if len(y) <= TUNED_ON:
        return np.arange(len(y))
    order = np.argsort(y, kind="stable")
    half = TUNED_ON // 2
    rest = order[half:][np.linspace(0, len(y) - half - 1, TUNED_ON - half).astype(int)]
    return np.sort(np.concatenate([order[:half], rest])).astype(np.int64)
