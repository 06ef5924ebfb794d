"""The search loop over whatever evaluates: this process, or the workers of a cluster.

In step (the default), a batch of proposals is asked for when every value of the batch before is known, and its values
are told in the order of the proposals. What is proposed then depends on trials alone, never on how many workers there
are or which of them was first. `asynchronous`, a proposal is made whenever a worker is free and told when it is done;
each trial says after how many it was asked (those of one number were asked together), so the log holds the order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from archrank.grammar import Derivation
from archrank.search.expression import Constraint
from archrank.search.study import Study

__all__ = ["Done", "Evaluator", "Here", "Search"]


@dataclass(frozen=True, slots=True)
class Done:
    """An evaluation that ended: its values ({name: number} in a search), or why there are none."""

    key: Hashable
    values: Any
    seconds: float
    reason: str | None = None


class Evaluator(Protocol):
    """Evaluates candidates, several at a time if it can."""

    @property
    def room(self) -> int:
        """How many may be submitted at a time and keep every worker busy."""

    @property
    def pending(self) -> int:
        """Submitted and not collected."""

    def submit(self, key: Hashable, item: Any) -> None:
        """Begins."""

    def collect(self) -> Sequence[Done]:
        """The next that end, in any order; none where nothing is pending."""


class Here:
    """Evaluates in this process, one after the other."""

    room = 1

    def __init__(self, score: Callable[[Any], Any], failures: tuple[type[Exception], ...] = ()) -> None:
        """failures: what a candidate may die of without ending the run."""
        self._score, self._failures = score, failures
        self._queue: deque[tuple[Hashable, Any]] = deque()

    @property
    def pending(self) -> int:
        """Submitted and not collected."""
        return len(self._queue)

    def submit(self, key: Hashable, item: Any) -> None:
        """Puts it in the queue."""
        self._queue.append((key, item))

    def collect(self) -> list[Done]:
        """Evaluates the first of the queue."""
        if not self._queue:
            return []
        key, item = self._queue.popleft()
        began = time.monotonic()
        try:
            values = self._score(item)
        except self._failures as error:
            return [Done(key, None, time.monotonic() - began, str(error))]
        return [Done(key, values, time.monotonic() - began)]


@dataclass(slots=True)
class _Asked:
    derivation: Derivation
    cost: Mapping[str, float]
    reason: str | None
    broken: Sequence[Constraint]
    after: int
    seconds: float
    done: Done | None = None


@dataclass
class Search:
    """Candidates of a study up to `wanted` trials of its first stage.

    price: candidate -> (what is sent to be evaluated, its costs, why it is not evaluated, the constraints that it
    breaks); propose: proposals of a batch; each: is told the number of trials after each, and may raise.
    """

    study: Study
    evaluator: Evaluator
    price: Callable[[Derivation], tuple[Any, Mapping[str, float], str | None, Sequence[Constraint]]]
    constraints: Sequence[Constraint]
    wanted: int
    propose: int = 1
    asynchronous: bool = False
    each: Callable[[int], None] = lambda told: None
    told: int = 0
    exhausted: bool = False
    _open: dict[Hashable, _Asked] = field(default_factory=dict)  # asked and not told, by when it was asked
    _order: deque[Hashable] = field(default_factory=deque)  # those of the batch
    _asked: int = 0

    def run(self) -> bool:
        """Goes on until `wanted` trials are told; False where the space has no further candidate before that."""
        while self.advance():
            for done in self.evaluator.collect():
                self.take(done)
        return not self.exhausted

    def take(self, done: Done) -> None:
        """What came of a submitted candidate; told when it is due, by the next `advance`."""
        self._open[done.key].done = done

    def advance(self) -> bool:
        """Tells what is due and asks for what may be asked; whether any evaluation is to be waited for."""
        with self.study.log.together() if self.study.log is not None else nullcontext():
            return self._at_will() if self.asynchronous else self._in_step()

    def _in_step(self) -> bool:
        while True:
            while self._order and self._open[self._order[0]].done is not None:
                self._tell(self._order.popleft())
            if self._order:
                return True
            if self.told >= self.wanted:
                return False
            after, batch = self._batch()
            self.exhausted = not batch
            if not batch:
                return False
            self._order.extend(self._begin(d, after) for d in batch)

    def _batch(self) -> tuple[int, list[Derivation]]:
        """What is left of the batch that an earlier process was in, else a new one."""
        trials = self.study.log.trials if self.study.log is not None else ()
        if self.propose > 1 and trials and self.told and not self._asked:
            after = trials[-1].extra.get("asked_after")
            rest = self.study.ask_again(after, min(self.propose, self.wanted - after)) if isinstance(after, int) else []
            if rest:
                return int(str(after)), rest
        return self.told, self.study.ask(min(self.propose, self.wanted - self.told))

    def _at_will(self) -> bool:
        while True:
            for key in [key for key, asked in self._open.items() if asked.done is not None]:
                self._tell(key)
            if free := self._free():
                asked = self.study.ask(free)
                self.exhausted = not asked
                for d in asked:
                    self._begin(d, self.told)
            if all(asked.done is None for asked in self._open.values()):
                return bool(self._open)

    def _free(self) -> int:
        on_the_way = len(self._open)
        return 0 if self.exhausted else min(self.evaluator.room, self.wanted - self.told) - on_the_way

    # -- small parts ------------------------------------------------------------------------------------------------

    def _begin(self, d: Derivation, after: int) -> Hashable:
        key, began = self._asked, time.monotonic()
        self._asked += 1
        item, cost, reason, broken = self.price(d)
        self._open[key] = asked = _Asked(d, cost, reason, broken, after, time.monotonic() - began)
        if reason:
            asked.done = Done(key, {}, 0.0)
        else:
            self.evaluator.submit(key, item)
        return key

    def _tell(self, key: Hashable) -> None:
        asked = self._open.pop(key)
        done = asked.done
        assert done is not None
        d, seconds = asked.derivation, asked.seconds + done.seconds
        extra = {"asked_after": asked.after} if self.propose > 1 or self.asynchronous else {}
        if asked.reason:
            told, rules = asked.cost, asked.broken
            self.study.tell(d, told, seconds=seconds, infeasible=asked.reason, constraints=rules, extra=extra)
        elif done.values is None:
            self.study.fail(d, done.reason or "no reason given", seconds=seconds, extra=extra)
        else:
            values = {**done.values, **asked.cost}
            self.study.tell(d, values, seconds=seconds, constraints=self.constraints, extra=extra)
        self.told += 1
        self.each(self.told)
