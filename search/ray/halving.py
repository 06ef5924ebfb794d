"""Successive halving of Tune trials by several objectives: Tune's own schedulers know one metric.

The rule is not here: `promotable(rungs, objectives, η)` is asked whether a trial is among the best ⌊n / η⌋ of the n
that have reached its rung, by non-dominated rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler

from archrank.search.objective import Objective, parse_objectives

__all__ = ["Halving"]

Rung = Mapping[int, Mapping[str, float]]
Promotable = Callable[[Sequence[Rung], Sequence[Objective], int], tuple[int, int] | None]


class Halving(FIFOScheduler):  # type: ignore[misc]  # Ray has no types
    """Ends a trial at a rung that it does not go up from; nobody waits for a rung to fill.

    objectives: keys of what the trainable reports at each rung; rungs: values of `time_attr` at which it is decided,
    the last one being the end; reduction: η; promotable: the rule. The first η − 1 trials of a rung go on.
    """

    def __init__(
        self,
        objectives: Sequence[str | Objective],
        rungs: Sequence[int],
        promotable: Promotable,
        reduction: int = 3,
        time_attr: str = "training_iteration",
    ) -> None:
        super().__init__()
        if reduction < 2 or not rungs or list(rungs) != sorted(set(rungs)):
            raise ValueError(f"rungs {list(rungs)}, reduction {reduction}: rungs must rise, the reduction be 2 or more")
        self._objectives = parse_objectives(objectives)
        self._rungs, self._rule, self._reduction, self._time = list(rungs), promotable, reduction, time_attr
        self._reached: list[dict[int, Mapping[str, float]]] = [{} for _ in rungs]
        self._numbers: dict[str, int] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """CONTINUE, or STOP at a rung where others are better."""
        if result.get(self._time) not in self._rungs[:-1]:
            return str(self.CONTINUE)
        rung = self._reached[self._rungs.index(result[self._time])]
        number = self._numbers.setdefault(trial.trial_id, len(self._numbers))
        rung[number] = {o.name: float(result[o.name]) for o in self._objectives}
        if len(rung) < self._reduction:
            return str(self.CONTINUE)
        others: Rung = {i: {} for i in rung if i != number}  # it alone is asked about
        up = self._rule([rung, others], self._objectives, self._reduction)
        return str(self.STOP if up is None else self.CONTINUE)
