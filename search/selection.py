"""Which candidates go on to the next stage: those that together cover the most hypervolume, a budget stratum at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from archrank.search.pareto import hypervolume
from archrank.search.trial import Trial

__all__ = ["spread", "top_by_hypervolume"]

Points = Callable[[Sequence[Trial]], NDArray[np.float64]]


def top_by_hypervolume(trials: Sequence[Trial], n: int, points: Points, reference: NDArray[np.float64]) -> list[Trial]:
    """Greedy: the next trial is the one that adds most hypervolume to those taken; ties and zero gains by the first
    objective, then by id.

    points: trials -> (trials, objectives), minimised.
    """
    left, taken = sorted(trials, key=lambda t: t.id), list[Trial]()
    while left and len(taken) < n:
        held = hypervolume(points(taken), reference) if taken else 0.0
        gains = [hypervolume(points([*taken, t]), reference) - held for t in left]
        first = points(left)[:, 0]
        best = min(range(len(left)), key=lambda i: (-round(gains[i], 12), first[i], left[i].id))
        taken.append(left.pop(best))
    return taken


def spread(groups: Sequence[Sequence[Trial]], n: int, points: Points, reference: NDArray[np.float64]) -> list[Trial]:
    """`n` trials: the best of each group (stratum) in turn while they last, each picked by hypervolume within its
    group.
    """
    queues = [top_by_hypervolume(group, n, points, reference) for group in groups]
    chosen: list[Trial] = []
    for place in range(n):
        for queue in queues:
            if place < len(queue) and len(chosen) < n:
                chosen.append(queue[place])
    return chosen
