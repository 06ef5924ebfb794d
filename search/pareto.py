"""Pareto tools. Every array is (n, m): n points, m objectives, all minimised. A row with a nan or an infinity
is worse than any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archrank.grammar import nearest, number
from archrank.search.epsilon import net, read_epsilons
from archrank.search.errors import NothingFeasible
from archrank.search.expression import Constraint, parse_where
from archrank.search.objective import Objective, minimised, parse_objective
from archrank.search.trial import STAGES, Trial

__all__ = [
    "ParetoFront",
    "PickError",
    "Scale",
    "crowding_distance",
    "hypervolume",
    "knee",
    "latest",
    "log2_params",
    "non_dominated",
    "ranks",
    "reference_point",
]

Array = NDArray[np.float64]


class PickError(ValueError):
    """A pick that cannot be read, or that names no trial."""


def _finite(values: Array) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=1))
    return found


def non_dominated(values: Array) -> NDArray[np.bool_]:
    """(n, m) -> (n,): True where no row is at least as good everywhere and better somewhere; equal rows are
    all kept.
    """
    import moocore

    kept = _finite(values)
    finite = kept.copy()
    if finite.any():
        kept[finite] = moocore.is_nondominated(values[finite], keep_weakly=True)
    return kept


def ranks(values: Array) -> NDArray[np.int64]:
    """(n, m) -> (n,): 0 for the non-dominated rows, 1 for those non-dominated once these are gone, … (Deb et
    al. 2002, fast non-dominated sort).

    Rows that are not finite share the rank after the last.
    """
    import moocore

    finite = _finite(values)
    found = np.zeros(len(values), dtype=np.int64)
    if finite.any():
        good = values[finite]
        found[finite] = (
            np.unique(good[:, 0], return_inverse=True)[1] if good.shape[1] == 1 else moocore.pareto_rank(good)
        )
        found[~finite] = found[finite].max() + 1
    return found


def crowding_distance(values: Array) -> Array:
    """(n, m) -> (n,): for each row the sum over objectives of the gap between its two neighbours, over the
    objective's range (Deb et al. 2002).

    The ends of an objective have an infinite distance; larger is less crowded.
    """
    n, m = values.shape
    distance = np.zeros(n)
    for j in range(m):
        order = np.argsort(values[:, j], kind="stable")
        column = values[order, j]
        width = column[-1] - column[0] if n else 0.0
        if width > 0:
            distance[order[1:-1]] += (column[2:] - column[:-2]) / width
        distance[order[[0, -1]] if n else order] = np.inf
    return distance


def hypervolume(values: Array, reference: Array) -> float:
    """The volume between the rows and the reference (m,); rows that are not better than it everywhere add
    nothing.
    """
    import moocore

    inside = _finite(values) & (values < reference).all(axis=1)
    return float(moocore.hypervolume(values[inside], ref=reference)) if inside.any() else 0.0


def reference_point(values: Array, margin: float = 0.1) -> Array:
    """(n, m) -> (m,): max + margin × (max - min) of each objective over the finite rows. Compute it once and
    save it with the run.

    An objective that does not vary gets margin × |max| (or margin). NothingFeasible on no finite row.
    """
    finite = values[_finite(values)]
    if not len(finite):
        raise NothingFeasible("no reference point: no finished trial has a value for every objective")
    worst = finite.max(axis=0)
    width = worst - finite.min(axis=0)
    flat = np.where(worst == 0, 1.0, np.abs(worst))
    point: Array = worst + margin * np.where(width > 0, width, flat)
    return point


def log2_params(adapter_params: Array, floor: float) -> Array:
    """log2(max(adapter_params, floor)); floor: the parameters of the cheapest rank-1 module, so that the bare
    base has a place on the axis.
    """
    scaled: Array = np.log2(np.maximum(adapter_params, max(floor, 1.0)))
    return scaled


def knee(values: Array) -> int:
    """The row farthest below the hyperplane through the front's extremes: argmax (1 - Σ_j x_j) / √m.

    x_j = (value - min) / (max - min) over the rows, 0 where an objective does not vary. Ties go to the
    smallest largest x_j, then to the first row. NothingFeasible on no row.
    """
    if not len(values):
        raise NothingFeasible("no knee: the front is empty")
    low, high = values.min(axis=0), values.max(axis=0)
    x = (values - low) / np.where(high > low, high - low, 1.0)
    depth = np.round((1 - x.sum(axis=1)) / math.sqrt(values.shape[1]), 12)
    return int(np.lexsort((np.arange(len(x)), np.round(x.max(axis=1), 12), -depth))[0])


@dataclass(frozen=True)
class Scale:
    """The axes of a run's hypervolume, saved once: minimised values, adapter parameters as log2(max(·,
    floor)), and the reference point (m,).
    """

    objectives: tuple[Objective, ...]
    reference: Array
    floor: float = 1.0

    @classmethod
    def from_json(cls, objectives: Sequence[Objective], saved: Mapping[str, object]) -> Scale:
        """From `{"values": {objective: worst value}, "floor": …}`, the values in their own direction."""
        values, floor = saved["values"], saved.get("floor", 1.0)
        if not isinstance(values, Mapping) or not isinstance(floor, (int, float)):
            raise ValueError(f"a reference needs values and a floor, not {dict(saved)!r:.80}")
        axes = Scale(tuple(objectives), np.zeros(len(objectives)), float(floor))
        return Scale(axes.objectives, axes._axes([values])[0], axes.floor)

    def points(self, trials: Sequence[Trial]) -> Array:
        """(trials, m) on these axes."""
        return self._axes([t.values for t in trials])

    def hypervolume(self, trials: Sequence[Trial]) -> float:
        """Of the trials that are done."""
        return hypervolume(self.points([t for t in trials if t.state == "done"]), self.reference)

    def _axes(self, rows: Sequence[Mapping[str, float]]) -> Array:
        return _scaled(minimised(rows, self.objectives), self.objectives, self.floor)


def _scaled(values: Array, objectives: Sequence[Objective], floor: float) -> Array:
    out = values.copy()
    for j, o in enumerate(objectives):
        if o.name == "adapter_params":
            out[:, j] = o.sign * log2_params(o.sign * values[:, j], floor)
    return out


def latest(trials: Iterable[Trial]) -> list[Trial]:
    """Each candidate's trial of the latest stage (inherited < reranked < final < measured; then the larger
    id), by id.

    A failed trial measured nothing, so the stage before it counts; a candidate whose latest values are
    infeasible is left out, and so is one whose evaluation was stopped early: its values are estimates. Candidates are
    told apart by their sentence.
    """
    order = {stage: i for i, stage in enumerate(STAGES)}
    found: dict[str, Trial] = {}
    for t in trials:
        if t.state not in ("done", "infeasible"):
            continue
        held = found.get(t.text)
        if held is None or (order[t.stage], t.id) > (order[held.stage], held.id):
            found[t.text] = t
    return sorted((t for t in found.values() if t.state == "done" and not t.raced), key=lambda t: t.id)


@dataclass(frozen=True)
class ParetoFront:
    """The trials that no other dominates, best first objective first. The first objective is the quality, the
    second the cost.
    """

    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]
    pool: tuple[Trial, ...]  # every feasible trial: what `where` filters

    @classmethod
    def of(
        cls, trials: Iterable[Trial], objectives: Sequence[Objective], constraints: Sequence[Constraint] = ()
    ) -> ParetoFront:
        """The front of the trials that are done, have every objective and meet the constraints; give it
        `latest(trials)` of a run.

        A trial without a value that a constraint names does not meet it.
        """
        pool = [
            t
            for t in trials
            if t.state == "done"
            and all(o.name in t.values for o in objectives)
            and all(c.name in t.values and c.holds(t.values) for c in constraints)
        ]
        values = minimised([t.values for t in pool], objectives)
        front = [t for t, kept in zip(pool, non_dominated(values), strict=True) if kept]
        front.sort(key=lambda t: (*(o.sign * t.values[o.name] for o in objectives), t.id))
        return cls(tuple(objectives), tuple(front), tuple(pool))

    def __iter__(self) -> Iterator[Trial]:
        """The trials of the front."""
        return iter(self.trials)

    def __len__(self) -> int:
        """How many."""
        return len(self.trials)

    def __getitem__(self, place: int) -> Trial:
        """By place, 0 the best in the first objective."""
        return self.trials[place]

    def epsilon_net(self, epsilon: str | Sequence[str]) -> ParetoFront:
        """The front with one trial of each ε-box (`archrank.search.epsilon`): `5%` or `0.01` for every objective,
        `NAME=5%` or `NAME=0.01` for one of them. EpsilonError where it cannot be read or a share has no meaning.
        """
        kept = net(self.trials, self.objectives, read_epsilons(epsilon, self.objectives))
        return replace(self, trials=tuple(kept))

    def knee(self) -> Trial:
        """The trial farthest below the hyperplane through the extremes; adapter parameters count by their
        log2.
        """
        self._some()
        values = minimised([t.values for t in self.trials], self.objectives)
        counts = [t.values.get("adapter_params", 0) for t in self.trials]
        floor = min((c for c in counts if c > 0), default=1.0)
        return self.trials[knee(_scaled(values, self.objectives, floor))]

    def best(self, objective: str, where: str | None = None) -> Trial:
        """The best in one value among all feasible trials that meet `where`; ties by the other objectives,
        then by id.

        NothingFeasible where none meets it; an error names the values there are.
        """
        pool = [*self._some().pool]
        names = list(dict.fromkeys(name for t in pool for name in t.values))
        mine = next((o for o in self.objectives if str(o) == objective or o.name == objective), None)
        wanted = mine or parse_objective(
            objective, None if ":" in objective and objective.split(":")[0] in names else names
        )
        for c in parse_where(where, names) if where else ():
            pool = [t for t in pool if c.name in t.values and c.holds(t.values)]
            if not pool:
                raise NothingFeasible(f"no trial of the run meets {c} (of {where!r})")
        others = [o for o in self.objectives if o.name != wanted.name]
        pool = [t for t in pool if wanted.name in t.values]
        return min(pool, key=lambda t: (*(o.sign * t.values[o.name] for o in (wanted, *others)), t.id))

    def within(self, share: str | float) -> Trial:
        """The cheapest trial whose quality is within `share` of the best: |q - q_best| <= share × |q_best|.

        share: `"0.5%"` or .005. Cost is the second objective; with one objective it is the best.
        """
        self._some()
        try:
            fraction = number(share) if isinstance(share, str) else share
        except ValueError as error:
            raise PickError(f"within:{share}: {error}") from None
        if not 0 <= fraction <= 1:
            raise PickError(f"within:{share}: must be between 0% and 100%")
        values = minimised([t.values for t in self.trials], self.objectives)
        quality = values[:, 0]
        near = np.flatnonzero(quality <= quality.min() + fraction * abs(quality.min()))
        cost = values[near, 1] if values.shape[1] > 1 else quality[near]
        return self.trials[int(near[np.argmin(cost)])]

    def pick(self, text: str) -> Trial:
        """`knee`, `best:OBJECTIVE`, `within:0.5%` or a trial's id; PickError says so."""
        how, _, what = text.strip().partition(":")
        self._some()
        if how == "knee" and not what:
            return self.knee()
        if how == "best" and what:
            return self.best(what)
        if how == "within" and what:
            return self.within(what)
        if how.isdecimal() and not what and len(how) < 19:
            found = next((t for t in self.pool if t.id == int(how)), None)
            if found is not None:
                return found
            shown = ", ".join(str(t.id) for t in self.trials[:12])
            raise PickError(
                f"no feasible trial {how} at its latest stage; the front has {shown}{', …' if len(self) > 12 else ''}"
            )
        near = nearest(how, ["knee", "best", "within"])
        hint = f"did you mean {near[0]}? " if near and near[0] != how else ""
        raise PickError(f"cannot pick {text!r}; {hint}Write knee, best:OBJECTIVE, within:0.5% or a trial's id")

    def to_pandas(self) -> Any:
        """A DataFrame, a row a trial: id, text, stage, seconds and each value. Needs pandas."""
        try:
            pandas = import_module("pandas")
        except ImportError:
            raise ImportError("to_pandas needs pandas: pip install pandas") from None
        rows = [{"id": t.id, "text": t.text, "stage": t.stage, "seconds": t.seconds, **t.values} for t in self.trials]
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        """The front as a table, in a notebook."""
        from archrank.search.notebook import front_html

        return front_html(self)

    def _some(self) -> ParetoFront:
        if not self.trials:
            raise NothingFeasible("the front is empty: no finished trial meets the constraints")
        return self
