"""Which candidates go on to the next stage: the best of each budget stratum, the strata in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from archrank.search.objective import Objective
from archrank.search.trial import Trial

__all__ = ["by_cost", "by_quality", "spread"]


def by_quality(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Best first by the first objective, ties by the others, then by id.

    Not by hypervolume: its gain is measured against the bare base, so far away that the cheapest candidate of a stratum
    would nearly always win, and every finalist would sit just above a stratum's lower edge (it was tried).
    """
    return sorted(trials, key=lambda t: (*(o.sign * t.values[o.name] for o in objectives), t.id))


def spread(groups: Sequence[Sequence[Trial]], n: int, objectives: Sequence[Objective]) -> list[Trial]:
    """`n` trials: the best of each group, then the second best of each, and so on; fewer than there are groups come
    from groups that are evenly spaced, the first and the last among them.
    """
    queues = [by_quality(group, objectives) for group in groups if group]
    if 1 < n < len(queues):
        queues = [queues[round(k * (len(queues) - 1) / (n - 1))] for k in range(n)]
    longest = max((len(q) for q in queues), default=0)
    in_turn = [queue[place] for place in range(longest) for queue in queues if place < len(queue)]
    return in_turn[:n]


def by_cost(trials: Sequence[Trial], objectives: Sequence[Objective], n: int) -> list[Trial]:
    """`n` finished trials: the best of each part when they are cut by their first cost into as many equal parts."""
    pool = [t for t in trials if t.state == "done"]
    wanted = min(n, len(pool))
    if not wanted or len(objectives) == 1:
        return spread([pool], wanted, objectives)
    cost = objectives[1]
    pool.sort(key=lambda t: (cost.sign * t.values[cost.name], t.id))
    parts = [[pool[int(i)] for i in part] for part in np.array_split(np.arange(len(pool)), wanted)]
    return spread(parts, wanted, objectives)
