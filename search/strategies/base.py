"""What a strategy is, and what strategies share: a fold of the history, and the search for a candidate that
is new.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from archrank.search.objective import Objective, minimised
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["Factory", "Fresh", "Past", "Strategy", "StrategyError", "generator", "violation"]

ENUMERATED = 20_000  # spaces up to this size are listed when variation and sampling find nothing new
_TRIES = 30
_SAMPLES = 100


class StrategyError(ValueError):
    """A strategy that is unknown or that cannot work on this space."""


class Strategy(Protocol):
    """Proposes candidates; a function of (space, objectives, seed, history) with caches, no I/O, no other
    state.
    """

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """At most `n` candidates of the space, all different and none of the history; fewer where nothing new
        is found.

        history: each candidate once, by id; a trial in state `pending` was asked and has no values yet.
        Failed and infeasible ones are there too.
        """


class Factory(Protocol):
    """A strategy's class."""

    def __call__(self, space: Space, objectives: Sequence[Objective], seed: int) -> Strategy:
        """A strategy over one space."""


def generator(seed: int, place: int) -> np.random.Generator:
    """The generator of proposal number `place` (trials seen so far): no hidden state, so that a resumed run
    goes on as if never stopped.
    """
    return np.random.default_rng([seed, place])


def violation(trial: Trial) -> float:
    """How far an infeasible trial is from feasible (what the study recorded), inf where unknown; 0 for one
    that is done.
    """
    if trial.state == "done":
        return 0.0
    told = trial.extra.get("violation")
    return float(told) if isinstance(told, (int, float)) else np.inf


class Past:
    """The history as arrays, extended while trials are only appended and rebuilt from where they differ."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives = tuple(objectives)
        self.keys: set[str] = set()
        self.measured: list[Trial] = []  # done or infeasible, by id
        self._trials: list[Trial] = []
        self._rows: list[list[float]] = []

    def update(self, history: Sequence[Trial]) -> None:
        """Takes in a history; what it shares with the last one is skipped."""
        k = min(len(self._trials), len(history))
        if self._trials[:k] != history[:k] or k < len(self._trials):
            pairs = zip(self._trials, history, strict=False)
            k = next((i for i, (old, new) in enumerate(pairs) if old != new), k)
            del self._trials[k:]
            left = sum(t.state in ("done", "infeasible") for t in self._trials)
            del self.measured[left:], self._rows[left:]
            self.keys = {t.key for t in self._trials}
        for trial in history[k:]:
            self.keys.add(trial.key)
            self._trials.append(trial)
            if trial.state in ("done", "infeasible"):
                self.measured.append(trial)
                self._rows.append(minimised([trial.values], self.objectives)[0].tolist())

    def values(self) -> NDArray[np.float64]:
        """(measured, objectives), minimised; nan where an infeasible trial has no value."""
        return np.array(self._rows, dtype=np.float64).reshape(len(self._rows), len(self.objectives))

    def violations(self) -> NDArray[np.float64]:
        """(measured,): 0 for trials that are done."""
        return np.array([violation(t) for t in self.measured], dtype=np.float64)


class Fresh:
    """Finds candidates that were not seen, and remembers the sentences of a small space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._all: dict[str, Derivation] | None = None

    def find(
        self,
        rng: np.random.Generator,
        taken: Collection[str],
        propose: Callable[[], Derivation] | None = None,
    ) -> Derivation | None:
        """A candidate whose key is not in `taken`: by `propose`, else sampled, else from the whole list of a
        small space, else None.
        """
        for _ in range(_TRIES if propose else 0):
            assert propose is not None
            try:
                candidate = propose()
            except ValueError:  # a space of one sentence has no neighbour
                break
            if candidate.key not in taken:
                return candidate
        for _ in range(_SAMPLES if self._all is None else 0):
            candidate = self.space.sample(rng, n=1)[0]
            if candidate.key not in taken:
                return candidate
        left = [d for key, d in self._listed().items() if key not in taken]
        return left[int(rng.integers(len(left)))] if left else None

    def _listed(self) -> dict[str, Derivation]:
        if self._all is None:
            small = self.space.is_finite and self.space.size() <= ENUMERATED
            self._all = {d.key: d for d in islice(self.space.enumerate(), ENUMERATED)} if small else {}
        return self._all
