"""A search whose space shrinks on the way: options that fare worst among the candidates so far leave it, and the
strategy goes on in what is left.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from archrank.grammar import Derivation, Space
from archrank.search import strategies
from archrank.search.objective import Objective
from archrank.search.storage import Log
from archrank.search.strategies.base import Strategy
from archrank.search.trial import Trial
from archrank.supernet.space_shrinking import OptionScore, Sampled, Shrinkage, option_scores, shrunk

__all__ = ["Remaining", "dropped_productions", "record", "remaining", "round_due", "scored_trials", "shrink_event"]

LEAST_CANDIDATES = 10
"""Fewer than these say nothing about options."""


class Remaining:
    """A strategy over what is left of a space; candidates that hold what has left are no history to it."""

    def __init__(self, inner: Strategy, space: Space, gone: Collection[int]) -> None:
        self.inner, self.space, self.gone = inner, space, frozenset(gone)
        self._inside: dict[str, bool] = {}

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """As the inner one."""
        return self.inner.ask([t for t in history if self._holds(t)], n)

    def _holds(self, trial: Trial) -> bool:
        if trial.key not in self._inside:
            self._inside[trial.key] = self.gone.isdisjoint(self.space.parse(trial.text).choices)
        return self._inside[trial.key]


def remaining(space: Space, name: str, objectives: Sequence[Objective], seed: int, gone: Collection[int]) -> Strategy:
    """The strategy of a name over a space without some productions."""
    inner = strategies.load(name)(space.without(gone) if gone else space, objectives, seed)
    return Remaining(inner, space, gone) if gone else inner


def shrink_event(log: Log, number: int) -> Any:
    """What the log says of a round; None where it was not done yet."""
    return next((e for e in log.events if e.get("event") == "shrink" and e.get("round") == number), None)


def dropped_productions(event: Any) -> set[int]:
    """Those that left the space in a round of the log."""
    return {int(o["production"]) for o in event["options"] if o["dropped"]}


def record(log: Log, number: int, recipe: Shrinkage, scores: Sequence[OptionScore], seconds: float) -> list[str]:
    """Writes a round to the log; the names of what left."""
    log.event(
        {
            "event": "shrink",
            "round": number,
            "weight": recipe.weight,
            "options": [s.to_json() for s in scores],
            "seconds": round(seconds, 3),
        }
    )
    return [s.name for s in scores if s.dropped]


def round_due(trials: int, done: int, rounds: int) -> int:
    """How many rounds are due after `done` of `trials` candidates: one after each of rounds + 1 equal parts but the
    last.
    """
    return min(rounds, done * (rounds + 1) // max(1, trials))


def scored_trials(space: Space, trials: Sequence[Trial], recipe: Shrinkage) -> list[OptionScore]:
    """The options of finished candidates by their losses and diversities; [] where there are too few of them."""
    found = [
        Sampled(space.parse(t.text), float(t.values["loss"]), float(t.values.get("diversity", 0.0)))
        for t in trials
        if t.state == "done"
    ]
    if len(found) < LEAST_CANDIDATES:
        return []
    return shrunk(space, option_scores(space, found, recipe))[1]
