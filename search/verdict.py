"""The verdict of a rank search: the smallest adapter that stays near r_max, beside one uniform rank at its cost.

Finalists, the uniform r_max and the uniform rank at the choice's cost are fine-tuned alike, on the same seeds and rows.
d_i = loss_i − loss_i(r_max) over validation rows i, the mean over seeds; the interval is the percentile bootstrap over
rows (and over seeds, where there are several) of mean d / mean loss(r_max). A candidate is within p when the upper end
of its 95 % interval is at most p. Test rows are never chosen on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from archrank.search.config import read_share
from archrank.search.counts import REFERENCE, totals

if TYPE_CHECKING:
    from archrank.search.results import Run
    from archrank.search.trial import Trial

__all__ = ["Comparison", "compared", "paired_interval", "rank_verdict", "rows_of", "uniform_rank", "within_share"]

DRAWS, LEVEL = 2000, 0.95
Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A finalist against r_max: its trial, mean loss, and the interval of the relative difference."""

    trial: Trial
    loss: float
    low: float
    high: float
    uniform: int | None

    @property
    def params(self) -> float:
        """Adapter parameters."""
        return self.trial.values["adapter_params"]


def rows_of(run: Path, trial: int) -> Path:
    """The file of a finalist's losses row by row, `validation` and `test`, each `(seeds, rows)`."""
    return run / "adapters" / f"{trial}.rows.safetensors"


def paired_interval(a: Rows, b: Rows, scale: float) -> tuple[float, float]:
    """The interval of mean(a − b) / scale for losses `(seeds, rows)` of the same rows and seeds."""
    d = a[: len(b)] - b[: len(a)]
    rng = np.random.default_rng(0)
    means = np.empty(DRAWS)
    for k in range(DRAWS):
        some = d[rng.integers(len(d), size=len(d))] if len(d) > 1 else d
        means[k] = some[:, rng.integers(d.shape[1], size=d.shape[1])].mean()
    low, high = np.quantile(means / scale, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def uniform_rank(ranks: Mapping[str, int], shapes: Mapping[str, Sequence[int]]) -> int | None:
    """R where every module has rank min(r, in, out), None where ranks differ otherwise."""
    top = max(ranks.values(), default=0)
    limits = {name: min(top, *shape) for name, shape in shapes.items()}
    return top if top and all(ranks.get(n, 0) == limit for n, limit in limits.items()) else None


def compared(run: Run) -> list[Comparison]:
    """Every final trial against r_max, smallest first; [] where r_max or its rows are not there."""
    finals = [t for t in run.trials if t.stage == "final" and t.values and rows_of(run.path, t.id).exists()]
    shapes = run.header["sites"]
    uniform = {t.id: uniform_rank(run.ranks(t), shapes) for t in finals}
    # what the run took for r_max: another uniform rank that was found is no reference
    wanted = run.event("uniform").get("rank")
    reference = next((t for t in finals if uniform[t.id] == wanted and wanted), None)
    if reference is None:
        return []
    own = _rows(run.path, reference.id)
    found = []
    for t in finals:
        rows = _rows(run.path, t.id)
        low, high = (0.0, 0.0) if t.id == reference.id else paired_interval(rows, own, float(own.mean()))
        found.append(Comparison(t, float(rows.mean()), low, high, uniform[t.id]))
    return sorted(found, key=lambda c: (c.params, c.trial.id))


def within_share(found: Sequence[Comparison], share: float) -> Comparison | None:
    """The smallest whose interval stays within `share`."""
    return next((c for c in found if c.high <= share and c.trial.state == "done"), None)


def rank_verdict(run: Run) -> str | None:
    """One sentence; None before r_max and a finalist are trained."""
    found = compared(run)
    if not found:
        return None
    share = read_share("--within", run.config.within)
    wanted = run.event("uniform").get("rank")
    reference = next(c for c in found if c.uniform == wanted)
    choice = within_share(found, share) or reference
    seeds, rows = _rows(run.path, choice.trial.id).shape
    saw = f"{_saw(run)}; {seeds} seed{'s' if seeds > 1 else ''}, {rows} validation rows"
    largest = "r_max" if reference.uniform == max(run.space.ranks) else "the largest within the constraints"
    goal = f"within {run.config.within} of uniform r = {reference.uniform} ({largest})"
    top = f"loss {reference.loss:.3g} with {reference.params:,.0f} adapter parameters"
    if choice is reference:
        near = min(found, key=lambda c: c.high if c is not reference else np.inf)
        told = f"No smaller adapter is shown to stay {goal}, {top}"
        if near is not reference:
            told += (
                f": the nearest, trial {near.trial.id} with {near.params:,.0f}, differs by {_span(near.low, near.high)}"
            )
        return f"{told} ({saw})."
    told = (
        f"Smallest {goal}: trial {choice.trial.id}, {choice.params:,.0f} adapter parameters "
        f"({choice.params / reference.params:.0%}), loss {choice.loss:.3g}, paired 95% interval of the difference "
        f"{_span(choice.low, choice.high)} (r = {reference.uniform}: {top})"
    )
    return f"{told}; {_beside(run, choice, found)} ({saw})."


def _saw(run: Run) -> str:
    """What each method saw: the best of many is compared with the uniform ranks, which nothing chose."""
    uniform = sum(s.configurations for s in run.seen if s.method == REFERENCE)
    trained = sum(s.configurations for s in run.seen if s.stage == "final")
    searched = totals(run.seen, ("inherited", "reranked"))
    return f"configurations seen: {searched}, {trained:,} fully trained of which {uniform} as uniform references"


def _beside(run: Run, choice: Comparison, found: Sequence[Comparison]) -> str:
    """The best uniform rank at equal cost: the largest that costs no more, the smallest where none does."""
    if choice.uniform:
        return f"it is uniform r = {choice.uniform}: no allocation found is smaller and as good"
    others = [c for c in found if c.uniform]
    beside = max((c for c in others if c.params <= choice.params), key=lambda c: c.params, default=others[0])
    low, high = paired_interval(
        _rows(run.path, beside.trial.id), _rows(run.path, choice.trial.id), max(choice.loss, 1e-12)
    )
    what = (
        f"uniform r = {beside.uniform} ({beside.params:,.0f}) has loss {beside.loss:.3g}, {_span(low, high)} against it"
    )
    if low <= 0 and beside.params <= choice.params:
        return f"uniform r = {beside.uniform} is as good at no higher cost: {what}"
    return what


def _span(low: float, high: float) -> str:
    return f"{low:+.1%} … {high:+.1%}"


def _rows(run: Path, trial: int) -> Rows:
    from safetensors.numpy import load_file

    rows: Rows = load_file(rows_of(run, trial))["validation"].astype(np.float64)
    return rows
