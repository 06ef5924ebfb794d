"""What the surrogate believes of each objective: a warp of its values and a Gaussian process on the warped ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archrank.search.strategies._process import Process, Setting, tuned
from archrank.search.strategies._warp import WARPS, Warp, warp

__all__ = ["Belief", "Choice", "chosen", "leave_one_out"]

Array = NDArray[np.float64]
Groups = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """A kind of warp and the hyperparameters under it."""

    kind: str
    setting: Setting


def chosen(x: Array, y: Array, groups: Groups, before: Choice | None = None, kinds: tuple[str, ...] = WARPS) -> Choice:
    """The warp whose process ranks the better half best when each value is predicted from the others."""
    found: list[tuple[float, Choice]] = []
    better = np.argsort(y, kind="stable")[: max(len(y) // 2, 4)]
    for kind in kinds:
        z = warp(kind, y)(y)
        setting = tuned(x, z, groups, before.setting if before is not None and before.kind == kind else None)
        loo = leave_one_out(x, z, groups, setting)
        found.append((_agreement(loo, y) + _agreement(loo[better], y[better]), Choice(kind, setting)))
    return max(found, key=lambda pair: pair[0])[1]


def leave_one_out(x: Array, z: Array, groups: Groups, setting: Setting) -> Array:
    """(n,): the mean for each row from all others (Rasmussen and Williams 2006, eq. 5.12)."""
    return Process(x, z, groups, setting).leave_one_out(z)


def _agreement(a: Array, b: Array) -> float:
    """Spearman's ρ; 0 where a side does not vary."""
    a, b = (np.argsort(np.argsort(v, kind="stable")).astype(float) for v in (a, b))
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 else 0.0


class Belief:
    """One objective's model on x (n, f), y (n,), in its own unit; `before`: the last one, for its factor."""

    def __init__(self, x: Array, y: Array, groups: Groups, choice: Choice, before: Belief | None = None) -> None:
        self.warp: Warp = warp(choice.kind, y)
        self.process: Process = Process(
            x, self.warp(y), groups, choice.setting, None if before is None else before.process
        )

    def mean(self, x: Array) -> Array:
        """(k, f) -> (k,), in single precision: to choose what is looked at closely."""
        return self.warp.back(self.process.rough_mean(x))

    def watch(self, x: Array) -> Watched:
        """The candidates (k, f) with means and variances that follow what is added."""
        return Watched(self, x)


class Watched:
    """Means and deviations of a set of candidates, updated as some are taken as known at their own mean (Kriging
    believer, Ginsbourger et al. 2010): the means stay, the variances shrink.
    """

    def __init__(self, belief: Belief, x: Array) -> None:
        process = belief.process
        cross = process.cross(x)
        self._belief, self._x = belief, x
        self._z = process.mean(cross)
        self.mean = belief.warp.back(self._z)
        self._half = process.half(cross)
        self._variance = np.maximum(process.prior(x) - (self._half**2).sum(0), 1e-8)
        self._extra: list[Array] = []
        self._share = np.ones(len(x))  # of its deviation that a candidate keeps

    def deviation(self) -> Array:
        """(k,), in the objective's unit: by the warp's slope."""
        back, sd = self._belief.warp.back, np.sqrt(self._variance) * self._belief.process.scale
        if self._belief.warp.kind == "none":
            return np.asarray(np.maximum(sd * self._belief.warp.width, 1e-9 * (1 + np.abs(self.mean))))
        found: Array = np.maximum((back(self._z + sd) - back(self._z - sd)) / 2, 1e-9 * (1 + np.abs(self.mean)))
        return found

    def know(self, i: int, value: float, sd: float | None) -> None:
        """Candidate i has this value, with this deviation or (None) a quarter of the model's."""
        self.mean[i] = value
        self._z[i] = self._belief.warp(np.array([value]))[0]
        own = float(self.deviation()[i])
        share = min(1.0, 0.25 if sd is None else max(sd / own, 1e-3))
        self._share[i] *= share
        self._variance[i] *= share**2
        for row in self._extra:
            row[i] *= share

    def take(self, i: int) -> None:
        """Candidate i counts as known."""
        process = self._belief.process
        covariance = process.between(self._x, self._x[i]) - self._half.T @ self._half[:, i]
        covariance *= self._share * self._share[i]
        for row in self._extra:
            covariance = covariance - row * row[i]
        row = covariance / np.sqrt(max(self._variance[i] + process.setting.noise, 1e-8))
        self._extra.append(row)
        self._variance = np.maximum(self._variance - row**2, 1e-8)
