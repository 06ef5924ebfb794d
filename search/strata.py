"""Search by budget: adapter parameters cut into strata, one strategy in each, asked in turn.

Inherited values rank candidates of one budget (Kendall τ .48-.53 in the pilot) and not candidates of
different budgets, so each stratum is searched alone.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from archrank.grammar import EmptySpaceError
from archrank.search import strategies
from archrank.search.history import Change, History, Reader
from archrank.search.objective import Objective
from archrank.search.strategies.base import Strategy, StrategyError
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["Strata", "Stratified", "log_edges"]


def log_edges(low: float, high: float, n: int = 4) -> list[float]:
    """The n + 1 edges from `low` to `high`, evenly spaced in the logarithm: low · (high / low)^(i / n)."""
    if not (0 < low <= high and n >= 1):
        raise StrategyError(f"strata need 0 < low <= high and at least one, not {low:g}, {high:g} and {n}")
    return [float(low * (high / low) ** (i / n)) for i in range(n)] + [float(high)]


class Strata:
    """`space` in parts: part i has edges[i] < adapter_params <= edges[i + 1], the first one its lower edge too: an
    edge is a budget, met by what costs as much. Parts without a sentence are empty.
    """

    def __init__(self, space: Space, edges: Sequence[float]) -> None:
        if len(edges) < 2 or any(b <= a for a, b in pairwise(edges[:-1])) or edges[-1] < edges[-2]:
            raise StrategyError(f"edges of strata must rise, not {', '.join(f'{e:g}' for e in edges)}")
        self.space, self.edges = space, tuple(edges)
        self.spaces = tuple(self._part(i) for i in range(len(self)))
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        """How many, empty ones included."""
        return len(self.edges) - 1

    def stratum_of(self, adapter_params: float) -> int:
        """The place of a cost; what is below the first edge counts as 0, above the last as the last."""
        return min(max(bisect_left(self.edges, adapter_params) - 1, 0), len(self) - 1)

    def place(self, trial: Trial) -> int:
        """The stratum of a trial, by its value or, where it has none (failed), by the closed form of its
        sentence.
        """
        cost = trial.values.get("adapter_params")
        if cost is not None:
            return self.stratum_of(cost)
        if trial.text not in self._places:
            self._places[trial.text] = self.stratum_of(self.space.cost(self.space.parse(trial.text)).adapter_params)
        return self._places[trial.text]

    def groups(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        """The trials of each stratum, in the given order."""
        found: list[list[Trial]] = [[] for _ in range(len(self))]
        for t in trials:
            found[self.place(t)].append(t)
        return found

    def strategy(self, name: str, objectives: Sequence[Objective], seed: int) -> Stratified:
        """One strategy of that name in each stratum, each with a seed of its own."""
        return Stratified(self, name, objectives, seed)

    def _part(self, i: int) -> Space | None:
        low = math.floor(self.edges[i]) + 1 if i else math.ceil(self.edges[0])
        high = math.floor(self.edges[i + 1]) if math.isfinite(self.edges[i + 1]) else 2**62
        try:
            return self.space.within(adapter_params=(low, high)) if low <= high else None
        except EmptySpaceError:
            return None


class Stratified:
    """A strategy made of one in each stratum: the next proposal belongs to the stratum with the fewest
    trials, the lowest of them first.
    """

    def __init__(self, strata: Strata, name: str, objectives: Sequence[Objective], seed: int) -> None:
        factory = strategies.load(name)
        self._strata = strata
        self._parts: list[Strategy | None] = [
            None
            if part is None
            else factory(part, objectives, int(np.random.SeedSequence([seed, i]).generate_state(1)[0]))
            for i, part in enumerate(strata.spaces)
        ]
        self._reader = Reader()
        self._groups = [History() for _ in strata.spaces]

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """At most `n`; a stratum that finds nothing new leaves its turn to the others."""
        groups = self._grouped(history)
        most = {i: n for i, part in enumerate(self._parts) if part is not None}
        while True:
            turns = _turns([len(g) for g in groups], most, n)
            found = {
                i: part.ask(groups[i], turns.count(i)) for i, part in enumerate(self._parts) if part and i in turns
            }
            short = {i: len(got) for i, got in found.items() if len(got) < turns.count(i)}
            if not short:
                return [found[i].pop(0) for i in turns]
            most |= short

    def _grouped(self, history: Sequence[Trial]) -> list[History]:
        """The history by stratum; what was grouped before stays, so that the price of a proposal does not grow."""
        changes = self._reader.read(history)
        if any(c.replaced or self._moved(c) for c in changes):
            self._groups = [History() for _ in self._groups]
            changed = list(history)
        else:
            changed = [c.new for c in changes if c.new is not None]
        for trial in changed:
            self._groups[self._strata.place(trial)].put(trial)
        return self._groups

    def _moved(self, change: Change) -> bool:
        old, new = change.old, change.new
        return old is not None and new is not None and self._strata.place(old) != self._strata.place(new)


def _turns(counts: list[int], most: dict[int, int], n: int) -> list[int]:
    """The strata of the next `n` proposals: always the one with the smallest count, at most `most[i]` of
    stratum i.
    """
    counts, given = list(counts), dict.fromkeys(most, 0)
    turns: list[int] = []
    for _ in range(n):
        open_ = [i for i in most if given[i] < most[i]]
        if not open_:
            break
        i = min(open_, key=lambda i: (counts[i], i))
        counts[i] += 1
        given[i] += 1
        turns.append(i)
    return turns
