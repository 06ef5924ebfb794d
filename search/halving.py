"""Asynchronous successive halving for any number of objectives: who is trained for longer.

Li, Jamieson, Rostamizadeh et al.: A system for massively parallel hyperparameter tuning (ASHA), MLSys 2020, with the
order of a rung by non-dominated rank and crowding distance (Schmucker et al.: Multi-objective asynchronous successive
halving, 2021). A candidate goes up as soon as it is among the best 1/η of its rung; nobody waits for a rung to fill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archrank.search.objective import Objective, minimised
from archrank.search.strategies.nsga2 import survivors

__all__ = ["all_promotable", "promotable", "rung_steps"]

MOST_RUNGS = 4


def rung_steps(steps: int, reduction: int) -> list[int]:
    """Training steps of each rung, the last one `steps`: steps / ηᵏ, at most 4 rungs, none below 10 steps."""
    found = [steps]
    while len(found) < MOST_RUNGS and found[0] // reduction >= 10:
        found.insert(0, found[0] // reduction)
    return found


def promotable(
    rungs: Sequence[Mapping[int, Mapping[str, float]]], objectives: Sequence[Objective], reduction: int
) -> tuple[int, int] | None:
    """(candidate, the rung that it goes to), the highest rung first, best first; None where nobody goes up.

    rungs: for each rung but the last what its candidates {id: values} have; those of rung k + 1 went up already. Of n
    candidates on a rung the best ⌊n / η⌋ may.
    """
    for k in range(len(rungs) - 2, -1, -1):
        ids = sorted(rungs[k])
        values = minimised([rungs[k][i] for i in ids], objectives)
        best = survivors(values, (values[:, 0] != values[:, 0]).astype(float), len(ids) // reduction)
        for place in best:
            if ids[place] not in rungs[k + 1]:
                return ids[place], k + 1
    return None


def all_promotable(
    below: Mapping[int, Mapping[str, float]],
    above: Mapping[int, Mapping[str, float]],
    objectives: Sequence[Objective],
    reduction: int,
) -> list[int]:
    """Who goes up from a rung that nobody joins any more, best first, those left out who did already."""
    gone, found = dict(above), list[int]()
    while (up := promotable([below, gone], objectives, reduction)) is not None:
        found.append(up[0])
        gone[up[0]] = {}
    return found
