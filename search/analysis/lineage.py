"""Where a point of the front is from: its stages back to its first evaluation, then from one nearest earlier candidate
to the next.

A trial of a later stage names the trial it was promoted from. What a strategy varied to get a proposal is not in the
log, and a model-guided one varies candidates that were never evaluated; so further back each step goes to the candidate
that was evaluated before and differs in the fewest decisions (in recursive spaces: words of the sentence), the latest
of equal ones. A step that would change more than half of the decisions is none: the candidate counts as new.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from archrank.grammar import Derivation
from archrank.grammar.paths import Place
from archrank.search.analysis.features import decision_names
from archrank.search.report.findings import Lineage, Step
from archrank.search.results import Run
from archrank.search.trial import Trial

__all__ = ["Lineages", "stages_of"]

STEPS = 6  # back from the first evaluation
SHOWN = 8  # changes of a step
_WORD = re.compile(r"[\w.]+")


def stages_of(trial: Trial, by_id: Mapping[int, Trial]) -> list[Trial]:
    """A trial, the one it was promoted from, and so on; it ends where a damaged line of the log is missing."""
    found = [trial]
    while trial.parent is not None and trial.parent < trial.id and trial.parent in by_id:
        trial = by_id[trial.parent]
        found.append(trial)
    return found


class Lineages:
    """The lineages of one run, among the candidates that were read: {key: candidate}."""

    def __init__(self, run: Run, read: Mapping[str, Derivation]) -> None:
        self._run, self._read = run, read
        self._by_id = {t.id: t for t in run.trials}
        first: dict[str, Trial] = {}
        for trial in run.trials:  # by id: the first evaluation of each candidate
            if trial.state == "done" and trial.key in read:
                first.setdefault(trial.key, trial)
        self._first = list(first.values())
        self._row = {t.key: i for i, t in enumerate(self._first)}

    def knows(self, number: int) -> bool:
        """Whether the trial's candidate was read."""
        return number in self._by_id and self._by_id[number].key in self._row

    def of(self, number: int) -> Lineage:
        """Of a trial that is known."""
        trial = self._by_id[number]
        first, *earlier = stages_of(trial, self._by_id)
        steps = [Step(first.id, ""), *(Step(t.id, "the same candidate, trained further") for t in earlier)]
        trial = earlier[-1] if earlier else first
        origin = self._first[self._row[trial.key]]
        if origin.id < trial.id:
            steps.append(Step(origin.id, "the same candidate, evaluated before"))
            trial = origin
        if trial.stage != "inherited":
            return Lineage(steps, "a reference, trained without having been searched for")
        row = self._row[trial.key]
        for _ in range(STEPS):
            nearest = self._nearest(row)
            if nearest is None:
                end = "the first candidate of the run" if row == 0 else self._end(row)
                return Lineage(steps, end)
            changes = self._changes(nearest, row)
            apart = int(self._distances(row)[nearest])
            relation = f"{apart} of {self._size(row, nearest)} {self._unit} differ"
            more = max(0, len(changes) - SHOWN)
            steps.append(Step(self._first[nearest].id, relation, changes[:SHOWN], more))
            row = nearest
        return Lineage(steps, f"{STEPS} steps back from the first evaluation")

    @property
    def _unit(self) -> str:
        return "words" if self._codes is None else "decisions"

    @cached_property
    def _places(self) -> tuple[Place, ...]:
        paths = self._run.space.paths()
        return () if paths is None else paths.places

    @cached_property
    def _names(self) -> list[str]:
        paths = self._run.space.paths()
        return [] if paths is None else decision_names(paths)

    @cached_property
    def _codes(self) -> NDArray[np.int64] | None:
        """(candidates, places that leave a choice); None where the space does not unroll."""
        paths = self._run.space.paths()
        if paths is None:
            return None
        return np.array([paths.encode(self._read[t.key]) for t in self._first], dtype=np.int64)

    @cached_property
    def _words(self) -> list[Counter[str]]:
        return [Counter(_WORD.findall(t.text)) for t in self._first]

    def _distances(self, row: int) -> NDArray[np.int64]:
        """(row,): from each earlier candidate."""
        if self._codes is not None:
            found: NDArray[np.int64] = (self._codes[:row] != self._codes[row]).sum(axis=1)
            return found
        mine = self._words[row]
        apart = [max(((mine - w).total()), (w - mine).total()) for w in self._words[:row]]
        return np.array(apart, dtype=np.int64)

    def _size(self, row: int, other: int) -> int:
        """How many decisions either of the two takes; words of the longer sentence."""
        if self._codes is None:
            return max(self._words[row].total(), self._words[other].total())
        open_ = np.array([len(p.labels) > 1 for p in self._places])
        return int((open_ & ((self._codes[row] >= 0) | (self._codes[other] >= 0))).sum())

    def _nearest(self, row: int) -> int | None:
        apart = self._distances(row)
        if not len(apart):
            return None
        found = int(np.flatnonzero(apart == apart.min())[-1])
        return found if 2 * apart[found] <= self._size(row, found) else None

    def _end(self, row: int) -> str:
        apart = self._distances(row)
        other = int(np.flatnonzero(apart == apart.min())[-1])
        return (
            f"a new candidate: the nearest earlier one, #{self._first[other].id}, differs in "
            f"{int(apart[other])} of {self._size(row, other)} {self._unit}"
        )

    def _changes(self, old: int, new: int) -> list[str]:
        if self._codes is None:
            return _edits(_WORD.findall(self._first[old].text), _WORD.findall(self._first[new].text))
        pairs = zip(self._names, self._places, self._codes[old], self._codes[new], strict=True)
        return [f"{name}: {_way(place, a)} → {_way(place, b)}" for name, place, a, b in pairs if a != b]


def _way(place: Place, code: int) -> str:
    return place.labels[code] if code >= 0 else "–"


def _edits(old: Sequence[str], new: Sequence[str]) -> list[str]:
    found = []
    for kind, a, b, c, d in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if kind != "equal":
            found.append(f"{' '.join(old[a:b]) or 'nothing'} → {' '.join(new[c:d]) or 'nothing'}")
    return found
