"""Runs side by side: fronts, and hypervolume over evaluations from one common corner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archrank.search.bench.cells import intervals
from archrank.search.bench.figure import COLOURS, curves, page
from archrank.search.config import ConfigError
from archrank.search.counts import seen_line, totals
from archrank.search.objective import Objective, minimised
from archrank.search.pareto import hypervolume, reference_point
from archrank.search.results import Run, open_run
from archrank.search.storage import write_atomic

__all__ = ["Comparison", "compare", "text_table", "write_page"]

POINTS = 60


@dataclass(frozen=True)
class Comparison:
    """Runs with the same objectives; `corner` (m,) minimised: the worst over all of them and a tenth more; `curves` of
    each {evaluations: hypervolume}, trials at their first stage.
    """

    runs: tuple[Run, ...]
    objectives: tuple[Objective, ...]
    corner: NDArray[np.float64]
    curves: tuple[dict[int, float], ...]

    @property
    def groups(self) -> dict[str, list[int]]:
        """Runs that differ in their seed alone, by what they share."""
        found: dict[str, list[int]] = {}
        for i, run in enumerate(self.runs):
            found.setdefault(f"{run.header['space']}, {run.config.strategy}", []).append(i)
        return found


def compare(folders: Sequence[str]) -> Comparison:
    """ConfigError where the runs search for different things, or nothing is measured."""
    runs = tuple(open_run(folder) for folder in folders)
    first = runs[0].objectives
    for run in runs[1:]:
        if [str(o) for o in run.objectives] != [str(o) for o in first]:
            raise ConfigError(
                f"{run.path} searches for {', '.join(map(str, run.objectives))}, {runs[0].path} for "
                f"{', '.join(map(str, first))}: only runs with the same objectives can be compared"
            )
    tables = [minimised([t.values for t in _priced(run)], first) for run in runs]
    if not any(len(y) for y in tables):
        raise ConfigError(f"{', '.join(folders)}: no finished trial has a value for every objective")
    corner = reference_point(np.concatenate(tables))
    found = []
    for run, y in zip(runs, tables, strict=True):
        # evaluations count failed and infeasible trials too
        places = [i for i, t in enumerate(_first_stage(run)) if t.state == "done"]
        total = len(_first_stage(run))
        marks = sorted({int(n) for n in np.linspace(1, max(total, 1), min(POINTS, max(total, 1)))})
        found.append({n: hypervolume(y[: int(np.searchsorted(places, n))], corner) for n in marks})
    return Comparison(runs, first, corner, tuple(found))


def _first_stage(run: Run) -> list[Any]:
    return [t for t in run.trials if t.stage == "inherited"]


def _priced(run: Run) -> list[Any]:
    return [t for t in _first_stage(run) if t.state == "done"]


def as_json(found: Comparison) -> list[dict[str, Any]]:
    """[{"run", "trials", "front", "best": {objective: value}, "hypervolume"}]."""
    rows = []
    for run, curve in zip(found.runs, found.curves, strict=True):
        front = run.front()
        best = {o.name: front.best(o.name).values[o.name] for o in found.objectives} if len(front) else {}
        rows.append(
            {
                "run": str(run.path),
                "strategy": run.config.strategy,
                "seed": run.config.seed,
                "trials": len(run.trials),
                "configurations": [asdict(s) for s in run.seen],
                "front": len(front),
                "best": best,
                "hypervolume": list(curve.values())[-1] if curve else 0.0,
            }
        )
    return rows


def text_table(found: Comparison) -> str:
    """A line a run; then, where several seeds share all else, their mean hypervolume with its 95 % interval."""
    head = ["run", "strategy", "seed", "trials", "front", *(f"best {o.name}" for o in found.objectives), "hypervolume"]
    lines = [head]
    for row in as_json(found):
        best = [f"{row['best'][o.name]:.4g}" if row["best"] else "-" for o in found.objectives]
        told = [row["run"], row["strategy"], str(row["seed"]), str(row["trials"]), str(row["front"])]
        lines.append([*told, *best, f"{row['hypervolume']:.5g}"])
    sizes = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(c.ljust(n) if i < 2 else c.rjust(n) for i, (c, n) in enumerate(zip(line, sizes, strict=True)))
        for line in lines
    ]
    for name, of in found.groups.items():
        if len(of) > 1:
            mean, low, high = intervals([[list(found.curves[i].values())[-1]] for i in of])
            text.append(f"{name}: hypervolume {mean[0]:.5g} [{low[0]:.5g}, {high[0]:.5g}] over {len(of)} runs")
    text += [f"{run.path}: {seen_line(run.seen)}" for run in found.runs]
    corner = ", ".join(f"{o.name} {o.sign * v:.4g}" for o, v in zip(found.objectives, found.corner, strict=True))
    return "\n".join([*text, f"hypervolume from {corner}"]) + "\n"


def write_page(path: Path, found: Comparison) -> None:
    """Fronts and curves as one HTML page."""
    figures = []
    if len(found.objectives) > 1:
        x, y = found.objectives[1], found.objectives[0]
        traces = []
        for i, run in enumerate(found.runs):
            front = sorted(run.front(), key=lambda t: t.values[x.name])
            traces.append(
                {
                    "x": [t.values[x.name] for t in front],
                    "y": [t.values[y.name] for t in front],
                    "text": [t.text[:120] for t in front],
                    "name": f"{run.path} ({totals(run.seen)})",
                    "mode": "lines+markers",
                    "line": {"shape": "hv", "color": COLOURS[i % len(COLOURS)]},
                    "type": "scatter",
                }
            )
        figures.append((traces, {"xaxis": {"title": {"text": x.name}}, "yaxis": {"title": {"text": y.name}}}))
    series = {name: [found.curves[i] for i in of] for name, of in found.groups.items()}
    frame = {"xaxis": {"title": {"text": "evaluations"}}, "yaxis": {"title": {"text": "hypervolume"}}}
    figures.append((curves(series), frame))
    note = "Fronts at each candidate's latest stage; hypervolume of first-stage values, bands: 95 % intervals."
    write_atomic(path, page("Runs compared", note, figures).encode())
