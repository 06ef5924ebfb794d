"""ε-nets: a front thinned to one point of each box, boxes being ε wide in each objective.

Additive ε: the box of value v is ⌊v / ε⌋, in the objective's unit. Multiplicative ε: ⌊ln v / ln(1 + ε)⌋, for values
above 0. Whatever is left out has a point in its box that is worse by less than ε, or by less than the factor 1 + ε, in
each objective (the boxes of Laumanns, Thiele, Deb and Zitzler: Combining convergence and diversity in evolutionary
multiobjective optimization, Evolutionary Computation 10(3), 2002).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archrank.grammar import nearest
from archrank.grammar import number as _number
from archrank.search.objective import Objective
from archrank.search.trial import Trial

__all__ = ["Epsilon", "EpsilonError", "net", "read_epsilons"]

Array = NDArray[np.float64]


class EpsilonError(ValueError):
    """An ε that cannot be read, or that does not fit the values."""


@dataclass(frozen=True)
class Epsilon:
    """Of one objective; share: multiplicative."""

    value: float
    share: bool

    def boxes(self, values: Array, objective: Objective) -> Array:
        """(n,) values in their own direction -> (n,) places on the grid, better ones smaller."""
        if not self.share:
            return objective.sign * values / self.value
        if (values <= 0).any():
            raise EpsilonError(
                f"epsilon {100 * self.value:g}%: {objective.name} has the value {values.min():g} on the front, and a "
                f"share needs values above 0; give it in its own unit: {objective.name}=0.01"
            )
        found: Array = objective.sign * np.log(values) / math.log1p(self.value)
        return found


def read_epsilons(given: str | Sequence[str], objectives: Sequence[Objective]) -> list[Epsilon]:
    """`5%` or `0.01` for every objective, `NAME=5%` or `NAME=0.01` for one; one that is not named is not looked at.

    EpsilonError says what cannot be read.
    """
    names = [o.name for o in objectives]
    found: dict[str, Epsilon] = {}
    for text in [given] if isinstance(given, str) else given:
        name, equals, number = text.rpartition("=")
        if equals and name.strip() not in names:
            near = nearest(name.strip(), names)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise EpsilonError(f"epsilon {text}: the front has {', '.join(names)}{hint}")
        epsilon = _read(text, number.strip())
        found |= dict.fromkeys([name.strip()] if equals else names, epsilon)
    if not found:
        raise EpsilonError("epsilon: none given; write 5%, 0.01, NAME=5% or NAME=0.01")
    return [found.get(name, Epsilon(math.inf, False)) for name in names]


def _read(text: str, number: str) -> Epsilon:
    share = number.endswith("%")
    try:
        value = _number(number.removesuffix("%")) / (100 if share else 1)
    except ValueError:
        raise EpsilonError(f"epsilon {text}: write 5%, 0.01, NAME=5% or NAME=0.01") from None
    if not 0 < value < math.inf:
        raise EpsilonError(f"epsilon {text}: must be above 0")
    return Epsilon(value, share)


def net(trials: Sequence[Trial], objectives: Sequence[Objective], epsilons: Sequence[Epsilon]) -> list[Trial]:
    """One trial of each box, in the given order: the one nearest its box's best corner, ties by id."""
    if not trials:
        return []
    columns = [
        e.boxes(np.array([t.values[o.name] for t in trials], dtype=np.float64), o)
        for o, e in zip(objectives, epsilons, strict=True)
    ]
    places = np.stack(columns, axis=1)
    boxes = np.floor(places)
    depth = (places - boxes).sum(axis=1)
    best: dict[tuple[float, ...], tuple[float, int, int]] = {}
    for i, (box, trial) in enumerate(zip(boxes.tolist(), trials, strict=True)):
        entry = (float(depth[i]), trial.id, i)
        best[tuple(box)] = min(best.get(tuple(box), entry), entry)
    return [trials[i] for i in sorted(i for _, _, i in best.values())]
