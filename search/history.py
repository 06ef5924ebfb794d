"""The trials that a strategy is asked with: only appended and replaced, so that what changed is known without a look at
all of them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

from archrank.search.trial import PENDING, Trial

__all__ = ["Change", "History", "Reader"]


class History(Sequence[Trial]):
    """Trials, each candidate once, by id; `changes` numbers the places that were written to, in order."""

    def __init__(self) -> None:
        self._trials: list[Trial] = []
        self.changes = array("q")

    def append(self, trial: Trial) -> None:
        """Behind all others."""
        self.changes.append(len(self._trials))
        self._trials.append(trial)

    def replace(self, place: int, trial: Trial) -> None:
        """In another's place."""
        self.changes.append(place)
        self._trials[place] = trial

    def put(self, trial: Trial) -> None:
        """At the place of its id; one of that id is replaced."""
        if not self._trials or self._trials[-1].id < trial.id:
            self.append(trial)
            return
        place = bisect_left(self._trials, trial.id, key=lambda t: t.id)
        if self._trials[place].id == trial.id:
            self.replace(place, trial)
        else:
            self._trials.insert(place, trial)
            self.changes.extend(range(place, len(self._trials)))

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials)

    @overload
    def __getitem__(self, place: int) -> Trial: ...

    @overload
    def __getitem__(self, place: slice) -> list[Trial]: ...

    def __getitem__(self, place: int | slice) -> Trial | list[Trial]:
        return self._trials[place]


class Change(NamedTuple):
    """What stands at a place now, and what stood there: None where there was nothing, or is nothing any more."""

    place: int
    old: Trial | None
    new: Trial | None

    @property
    def replaced(self) -> bool:
        """Whether a trial that counted is gone, rather than that one came or a pending one ended."""
        if self.old is None or self.new is None:
            return self.old is not None
        return self.old.state != PENDING or (self.old.id, self.old.key) != (self.new.id, self.new.key)


class Reader:
    """Follows a history: each `read` gives what is different from the read before.

    Of a `History` that grows this costs its changes; any other sequence is compared with the last one.
    """

    def __init__(self) -> None:
        self._trials: list[Trial] = []
        self._of: Sequence[Trial] | None = None
        self._seen = 0  # changes of `_of`

    def read(self, history: Sequence[Trial]) -> list[Change]:
        """By place; those that are gone last."""
        trials = self._trials
        if isinstance(history, History) and history is self._of:
            places: Sequence[int] = sorted(set(history.changes[self._seen :]))
        else:
            places = [i for i, t in enumerate(history) if i >= len(trials) or trials[i] is not t]
        self._of, self._seen = history, len(history.changes) if isinstance(history, History) else 0
        found = []
        for place in places:
            new = history[place]
            if place < len(trials):
                old, trials[place] = trials[place], new
                if old != new:
                    found.append(Change(place, old, new))
            else:
                trials.append(new)
                found.append(Change(place, None, new))
        gone = [Change(place, trials[place], None) for place in range(len(history), len(trials))]
        del trials[len(history) :]
        return found + gone
