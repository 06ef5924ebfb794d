"""The ask/tell loop: candidates out, values in, nothing twice, every line in the log before it counts."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from archrank.search import strategies
from archrank.search.expression import Constraint, parse_where
from archrank.search.history import History
from archrank.search.objective import Objective, parse_objectives
from archrank.search.pareto import ParetoFront, latest
from archrank.search.storage import Log
from archrank.search.strategies.base import Strategy
from archrank.search.trial import PENDING, STAGES, Trial, TrialError, plain_number

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["Study", "StudyError"]


class StudyError(ValueError):
    """Something that cannot be told to this study."""


class Study:
    """Candidates of a space and what is known of them.

    objectives: names (`"loss"`, `"error:min"`) or Objectives, the first the quality, the second the cost.
    strategy: a name or an object with `ask(history, n)`. constraints: `"latency_ms <= 3"` or Constraints; a
    trial that breaks one is `infeasible`. log: an open `storage.Log`; its trials are taken in, and each new
    one is on disk before `tell` returns.

    What is asked depends on space, objectives, seed and the trials, not on the order in which they were told.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str | Objective],
        strategy: str | Strategy = "surrogate",
        seed: int = 0,
        constraints: str | Sequence[str | Constraint] = (),
        log: Log | None = None,
    ) -> None:
        self.space = space
        self.objectives = parse_objectives([objectives] if isinstance(objectives, str) else objectives)
        self.constraints = _constraints(constraints)
        self.strategy = (
            strategies.load(strategy)(space, self.objectives, seed) if isinstance(strategy, str) else strategy
        )
        self.log = log
        self.listeners: list[Callable[[Trial], None]] = []  # hear of each new trial once it is in the log
        self._trials: list[Trial] = []
        self._history = History()  # each candidate once, as it was first told or asked; by id
        self._first: dict[str, Trial] = {}  # the same by key
        self._told: dict[tuple[str, str], int] = {}  # (key, stage) -> id
        self._next = 0
        for trial in log.trials if log is not None else ():
            self._take(self._keyed(trial))

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Everything told, by id."""
        return tuple(self._trials)

    @property
    def next_id(self) -> int:
        """The id of the next trial that was not asked for."""
        return self._next

    def front(self) -> ParetoFront:
        """The Pareto front of what was told, each candidate at its latest stage."""
        return ParetoFront.of(latest(self._trials), self.objectives, self.constraints)

    def ask(self, n: int = 1) -> list[Derivation]:
        """At most `n` candidates that were neither told nor asked before; fewer, or none, where the strategy
        finds nothing new.
        """
        if n < 0:
            raise StudyError(f"ask({n}): must be at least 0")
        found: list[Derivation] = []
        for d in self.strategy.ask(self._history, n) if n else ():
            if d.key not in self._first and len(found) < n:  # a strategy from outside may repeat itself
                found.append(d)
                self._remember(Trial(self._next, d.text, d.key, {}, state=PENDING))
                self._next += 1
        return found

    def enqueue(self, candidates: Sequence[Derivation]) -> list[Derivation]:
        """Asks for these as if the strategy had: candidate i gets id i, or the next free one. Returns those that are
        not told yet, so that a search which was stopped among them goes on there.
        """
        ids = {t.id for t in self._history}
        found: list[Derivation] = []
        for place, d in enumerate({d.key: d for d in candidates}.values()):
            held = self._first.get(d.key)
            if held is None:
                number = self._next if place in ids else place
                ids.add(number)
                self._remember(Trial(number, d.text, d.key, {}, state=PENDING))
                self._next = max(self._next, number + 1)
            if held is None or held.state == PENDING:
                found.append(d)
        return found

    def ask_again(self, begin: int, n: int) -> list[Derivation]:
        """The candidates `begin` … `begin + n - 1`, as they were or will be asked when only the trials before `begin`
        are known, those that have been told left out: how a search goes on that was killed in the middle of a batch.
        """
        if begin >= self._next:
            return self.ask(n)
        before = [t for t in self._history if t.id < begin]
        found: list[Derivation] = []
        for place, d in enumerate(self.strategy.ask(before, n), begin):
            held = self._first.get(d.key)
            if held is None:
                self._remember(Trial(place, d.text, d.key, {}, state=PENDING))
                self._next = max(self._next, place + 1)
                found.append(d)
            elif held.state == PENDING:
                found.append(d)
        return found

    def tell(
        self,
        derivation: Derivation,
        values: Mapping[str, float],
        *,
        seconds: float = 0.0,
        stage: str = "inherited",
        parent: int | None = None,
        extra: Mapping[str, object] | None = None,
        constraints: Sequence[Constraint] | None = None,
        infeasible: str | None = None,
    ) -> Trial:
        """Records what was measured of a candidate, asked for or not.

        A nan or an infinity makes the trial `failed`, a constraint that does not hold (or `infeasible`, a
        reason; then objectives may be missing) makes it `infeasible`. constraints: instead of the study's.
        StudyError where the candidate has a trial of this stage already, or where an objective is missing.
        """
        finite, bad = _finite(values)
        rules = self.constraints if constraints is None else tuple(constraints)
        missing = [o.name for o in self.objectives if o.name not in values] if infeasible is None else []
        missing += [c.name for c in rules if c.name not in values] if infeasible is None else []
        if missing:
            raise StudyError(f"no value {missing[0]!r} told; it is needed and there are: {', '.join(values) or 'none'}")
        told = dict(extra or {})
        state, reason = "done", None
        broken = [c for c in rules if c.name in finite and not c.holds(finite)]
        if bad:
            state, reason = "failed", ", ".join(f"{name} is {value}" for name, value in bad.items())
        elif broken or infeasible is not None:
            state, reason = "infeasible", infeasible or f"does not meet {' and '.join(map(str, broken))}"
            if broken:
                told["violation"] = sum(c.violation(finite) for c in broken)
        return self._record(derivation, finite, stage, state, seconds, reason, parent, told)

    def fail(
        self,
        derivation: Derivation,
        reason: str,
        *,
        stage: str = "inherited",
        parent: int | None = None,
        seconds: float = 0.0,
        extra: Mapping[str, object] | None = None,
    ) -> Trial:
        """Records that nothing could be measured; the candidate is not proposed again."""
        return self._record(derivation, {}, stage, "failed", seconds, reason, parent, extra or {})

    def knows(self, derivation: Derivation, stage: str = "inherited") -> bool:
        """Whether the candidate has a trial of this stage."""
        return (derivation.key, stage) in self._told

    def id_of(self, derivation: Derivation) -> int:
        """The id under which a candidate was first asked or told; StudyError where it was neither."""
        first = self._first.get(derivation.key)
        if first is None:
            raise StudyError(f"{derivation.text:.80}: neither asked nor told")
        return first.id

    def expect(self, derivation: Derivation, number: int) -> None:
        """A candidate that an earlier process asked for under this id counts as asked here too."""
        if derivation.key not in self._first:
            self._remember(Trial(number, derivation.text, derivation.key, {}, state=PENDING))
            self._next = max(self._next, number + 1)

    def adopt(self, trials: Sequence[Trial]) -> None:
        """Takes in trials that an earlier process told, but for those that are here already."""
        for trial in map(self._keyed, trials):
            if (trial.key, trial.stage) not in self._told:
                if self.log is not None:
                    self.log.append(trial)
                self._take(trial)

    def _record(
        self,
        derivation: Derivation,
        values: Mapping[str, float],
        stage: str,
        state: str,
        seconds: float,
        reason: str | None,
        parent: int | None,
        extra: Mapping[str, object],
    ) -> Trial:
        key = derivation.key
        if stage not in STAGES:
            raise StudyError(f"stage {stage!r}: must be one of {', '.join(STAGES)}")
        if (key, stage) in self._told:
            raise StudyError(f"{derivation.text:.80}: told already as trial {self._told[key, stage]} at stage {stage}")
        if parent is not None and all(parent != t.id for t in self._trials):
            raise StudyError(f"parent {parent}: no such trial")
        asked = self._first.get(key)
        number = asked.id if asked is not None and asked.state == PENDING else self._next
        trial = Trial(
            number,
            derivation.text,
            key,
            values,
            stage,
            state,
            round(float(seconds), 6),
            reason,
            parent,
            extra,
        )
        if self.log is not None:
            self.log.append(trial)
        self._take(trial)
        for listener in self.listeners:
            listener(trial)
        return trial

    def _take(self, trial: Trial) -> None:
        self._next = max(self._next, trial.id + 1)
        _insert(self._trials, trial)
        self._told[trial.key, trial.stage] = trial.id
        first = self._first.get(trial.key)
        if first is None or first.state == PENDING:
            self._remember(trial)

    def _remember(self, trial: Trial) -> None:
        """Puts a candidate's first trial in the history, in the place of its pending one."""
        old = self._first.get(trial.key)
        if old is not None and old.id != trial.id:
            self._history.replace(bisect_left(self._history, old.id, key=lambda t: t.id), trial)
        else:
            self._history.put(trial)
        self._first[trial.key] = trial

    def _keyed(self, trial: Trial) -> Trial:
        """A record written without a key gets its sentence's."""
        return trial if trial.key != trial.text else replace(trial, key=self.space.parse(trial.text).key)


def _insert(trials: list[Trial], trial: Trial) -> None:
    if not trials or trials[-1].id < trial.id:
        trials.append(trial)
    else:
        insort(trials, trial, key=lambda t: t.id)


def _constraints(given: str | Sequence[str | Constraint]) -> tuple[Constraint, ...]:
    parts = [given] if isinstance(given, str) else given
    return tuple(c for part in parts for c in (parse_where(part) if isinstance(part, str) else (part,)))


def _finite(values: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """(finite numbers, the others); StudyError for what is no number."""
    good: dict[str, float] = {}
    bad: dict[str, float] = {}
    for name, value in values.items():
        try:
            good[name] = plain_number(value, name)
        except TrialError as error:
            try:
                bad[name] = float(value)
            except (TypeError, ValueError):
                raise StudyError(str(error)) from None
            if math.isfinite(bad[name]):
                raise StudyError(str(error)) from None
    return good, bad
