"""The front of each device by itself, where one quantity was predicted for several (`--hw` more than once)."""

from __future__ import annotations

from collections.abc import Mapping

from archrank.search.expression import parse_where
from archrank.search.objective import Objective
from archrank.search.pareto import ParetoFront, latest
from archrank.search.results import Run

__all__ = ["device_fronts"]


def device_fronts(run: Run) -> dict[str, list[int]]:
    """{objective: ids of the front of the quality and that objective alone}, for objectives as `latency_ms@a100` of at
    least two devices; {} where there are none. Each candidate counts at its latest stage, under the run's constraints.
    """
    by_name: dict[str, list[Objective]] = {}
    for o in run.objectives[1:]:
        if "@" in o.name:
            by_name.setdefault(o.name.split("@")[0], []).append(o)
    constraints = [c for text in run.config.where for c in parse_where(text)]
    found: Mapping[str, list[int]] = {
        o.name: [t.id for t in ParetoFront.of(latest(run.trials), [run.objectives[0], o], constraints)]
        for of in by_name.values()
        if len(of) > 1
        for o in of
    }
    return dict(found)
