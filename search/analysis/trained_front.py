"""How sure the hypervolume curve is: what the front of each moment would be worth once its candidates are trained.

The curve counts first-stage values, which shared weights or short trainings only estimate. Some candidates were trained
later; over those, for each objective that changes, a line later = a + b · first is fitted. In each of DRAWS draws the
pairs are resampled with replacement and fitted anew; every point of the front that stood after n evaluations takes its
later value where it has one, else the line's value and the residuals of one drawn pair, stretched by √(k / (k − 2)).
The band is the 5 to 95 % range of the hypervolume, its middle the median (a residual bootstrap, Efron and Tibshirani
1993, ch. 9). It covers what training changes, measured by the run itself, and not what another seed would have found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from archrank.search.analysis.lineage import stages_of
from archrank.search.pareto import hypervolume, non_dominated
from archrank.search.report.data import STAGE_NAMES
from archrank.search.report.findings import Band
from archrank.search.results import Run
from archrank.search.trial import STAGES, Trial

__all__ = ["FEWEST", "trained_front"]

FEWEST = 8
"""Pairs that a line and its residuals are read from."""
DRAWS = 200
MARKS = 60
Array = NDArray[np.float64]


def trained_front(run: Run) -> Band:
    """The band of a run, or the reason why there is none."""
    if run.scale is None:
        return Band(said="")
    first = [t for t in run.trials if t.stage == "inherited"]
    usable = [(n, t) for n, t in enumerate(first, 1) if t.state == "done" and not t.raced]
    stage, later = _later(run, [t for _, t in usable])
    if len(later) < FEWEST:
        return Band(said=_none(run, len(later)))
    trials = [t for _, t in usable]
    before = run.scale.points(trials)
    after = np.full_like(before, np.nan)
    for i, trial in enumerate(trials):
        if trial.id in later:
            after[i] = run.scale.points([later[trial.id]])[0]
    fronts = _fronts([n for n, _ in usable], before, len(first))
    rng = np.random.default_rng(0)
    volumes = np.array(
        [[hypervolume(drawn[i], run.scale.reference) for _, i in fronts] for drawn in _draws(before, after, rng)]
    )
    ends = np.quantile(volumes, [0.05, 0.5, 0.95], axis=0).T.tolist()
    points = [(n, low, middle, high) for (n, _), (low, middle, high) in zip(fronts, ends, strict=True)]
    return Band(points, _said(stage, len(later)))


def _later(run: Run, first: Sequence[Trial]) -> tuple[str, dict[int, Trial]]:
    """The latest stage that at least FEWEST candidates of `first` have, else that of most; {first trial: the later}."""
    by_id, ids, by_key = {t.id: t for t in run.trials}, {t.id for t in first}, {t.key: t.id for t in first}
    found: dict[str, dict[int, Trial]] = {stage: {} for stage in reversed(STAGES[1:])}
    for trial in run.trials:
        if trial.stage in found and trial.state == "done":
            root: int | None = stages_of(trial, by_id)[-1].id
            root = root if root in ids else by_key.get(trial.key)
            if root is not None:
                found[trial.stage][root] = trial
    stage = next((s for s, of in found.items() if len(of) >= FEWEST), max(found, key=lambda s: len(found[s])))
    return stage, found[stage]


def _fronts(counts: Sequence[int], points: Array, total: int) -> list[tuple[int, NDArray[np.int64]]]:
    """(evaluations, rows of the front) wherever the front changes, at most MARKS of them, and at the end."""
    found: list[tuple[int, NDArray[np.int64]]] = []
    front = np.zeros(0, np.int64)
    for i, n in enumerate(counts):
        rows = np.append(front, i)
        kept = rows[non_dominated(points[rows])]
        if i in kept:
            front = kept
            found.append((n, front))
    if len(found) > MARKS:
        found = [found[k] for k in np.linspace(0, len(found) - 1, MARKS).round().astype(int)]
    return [*found, (total, front)]


def _draws(before: Array, after: Array, rng: np.random.Generator) -> list[Array]:
    """DRAWS tables (trials, m) of later values: as measured, else predicted."""
    known = np.asarray(np.isfinite(after).all(axis=1))
    pairs = np.flatnonzero(known)
    changing = [j for j in range(before.shape[1]) if (after[pairs, j] != before[pairs, j]).any()]
    stretch = np.sqrt(len(pairs) / (len(pairs) - 2))
    tables = []
    for _ in range(DRAWS):
        some = pairs[rng.integers(len(pairs), size=len(pairs))]
        who = rng.integers(len(some), size=len(before))  # one pair for all objectives of a candidate
        drawn = before.copy()
        for j in changing:
            slope, start = _line(before[some, j], after[some, j])
            residuals = after[some, j] - start - slope * before[some, j]
            drawn[:, j] = start + slope * before[:, j] + stretch * residuals[who]
        tables.append(np.where(known[:, None], after, drawn))
    return tables


def _line(x: Array, y: Array) -> tuple[float, float]:
    """(slope, start) by least squares; a flat line where x does not vary."""
    spread = x - x.mean()
    below = float(spread @ spread)
    slope = float(spread @ y) / below if below > 0 else 0.0
    return slope, float(y.mean() - slope * x.mean())


def _said(stage: str, pairs: int) -> str:
    return (
        f"The band is the front that stood at that moment, had it been trained: 90 % of {DRAWS} draws in which a point "
        f"without a {STAGE_NAMES[stage]} value takes one predicted from its first value, by a line through the {pairs} "
        "candidates that have both, line and residuals resampled. It says nothing about other seeds: for that compare "
        "several runs (search compare)."
    )


def _none(run: Run, pairs: int) -> str:
    told = f"{pairs} candidate{'s were' if pairs != 1 else ' was'} measured again at a later stage" if pairs else ""
    why = f"only {told}, at least {FEWEST} are needed" if pairs else "no candidate was measured at a second stage"
    return f"No interval: {why}; runs that differ in their seed give one (search compare)."
