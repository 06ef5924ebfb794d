"""What a strategy is, and what strategies share: a fold of the history, and the search for a candidate that
is new.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Container, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from archrank.search.history import Reader
from archrank.search.objective import Objective, minimised
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["Factory", "Fresh", "Past", "Sentences", "Strategy", "StrategyError", "Taken", "generator", "violation"]

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
    """What was measured, kept up while trials are added to the history and begun anew where one is gone."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives = tuple(objectives)
        self._reader = Reader()
        self._clear()

    def _clear(self) -> None:
        self.keys: set[str] = set()
        self.measured: list[Trial] = []  # done or infeasible, by id
        self._rows: list[list[float]] = []

    def update(self, history: Sequence[Trial]) -> list[Trial] | None:
        """Takes in a history. The trials that were measured since the last one, in any order; None where trials of
        that one are gone, so that what was made of them is void.
        """
        changes = self._reader.read(history)
        void = any(c.replaced for c in changes)
        if void:
            self._clear()
        fresh: list[Trial] = []
        for trial in history if void else [c.new for c in changes if c.new is not None]:
            self.keys.add(trial.key)
            if trial.state in ("done", "infeasible"):
                place = bisect_left(self.measured, trial.id, key=lambda t: t.id)
                self.measured.insert(place, trial)
                self._rows.insert(place, self.row(trial))
                fresh.append(trial)
        return None if void else fresh

    def text(self, number: int) -> str:
        """The sentence of a measured trial."""
        return self.measured[bisect_left(self.measured, number, key=lambda t: t.id)].text

    def row(self, trial: Trial) -> list[float]:
        """(objectives,): its values, minimised; nan where an infeasible trial has none."""
        return [float(v) for v in minimised([trial.values], self.objectives)[0]]

    def values(self, last: int = 0) -> NDArray[np.float64]:
        """(measured, objectives), minimised; nan where an infeasible trial has no value. last: of so many alone."""
        rows = self._rows[-last:]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.objectives))

    def violations(self, last: int = 0) -> NDArray[np.float64]:
        """(measured,): 0 for trials that are done."""
        return np.array([violation(t) for t in self.measured[-last:]], dtype=np.float64)


class Taken:
    """The keys that are not to be proposed: those of the history, and those of this batch."""

    def __init__(self, keys: Collection[str]) -> None:
        self._keys, self._more = keys, set[str]()

    def __contains__(self, key: object) -> bool:
        return key in self._keys or key in self._more

    def add(self, key: str) -> None:
        """One more of this batch."""
        self._more.add(key)


class Sentences:
    """Sentences as candidates, each read once; None for one told from outside that the space does not have."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._read: dict[str, Derivation | None] = {}

    def __call__(self, text: str) -> Derivation | None:
        """The candidate of a sentence."""
        if text not in self._read:
            try:
                self._read[text] = self._space.parse(text)
            except ValueError:
                self._read[text] = None
        return self._read[text]

    def add(self, d: Derivation) -> Derivation:
        """A candidate that need not be read again."""
        self._read[d.text] = d
        return d


class Fresh:
    """Finds candidates that were not seen, and remembers the sentences of a small space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._all: dict[str, Derivation] | None = None

    def find(
        self,
        rng: np.random.Generator,
        taken: Container[str],
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
