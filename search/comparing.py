"""Runs side by side: fronts, and hypervolume over evaluations from one common corner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archrank.search.bench.cells import intervals
from archrank.search.config import ConfigError, RunConfig
from archrank.search.counts import seen_line
from archrank.search.objective import Objective, minimised
from archrank.search.pareto import hypervolume, reference_point
from archrank.search.results import Run, open_run
from archrank.search.storage import write_atomic

__all__ = ["Comparison", "Group", "as_json", "compare", "coverage", "differences", "text_table", "write_page"]

POINTS = 60
_NO_SETTING = {"seed", "trials", "out", "storage"}  # beside what says where a run computes


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone (and in how long and where they ran). `counts` (n,): evaluations that all of
    them have; `mean`, `low`, `high` (n,): hypervolume there, with the 95 % interval of the mean by Student's t over the
    runs; of one run all three are its curve.
    """

    name: str
    members: tuple[int, ...]
    counts: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs with the same objectives; `corner` (m,) minimised: the worst over all of them and a tenth more; `curves` of
    each {evaluations: hypervolume}, trials at their first stage.
    """

    runs: tuple[Run, ...]
    objectives: tuple[Objective, ...]
    corner: NDArray[np.float64]
    curves: tuple[dict[int, float], ...]

    @cached_property
    def groups(self) -> list[Group]:
        """The runs by what they share; told apart by their settings where space and strategy are the same."""
        kinds: dict[tuple[object, ...], list[int]] = {}
        for i, run in enumerate(self.runs):
            kinds.setdefault((run.header["space"], *_settings(run).items()), []).append(i)
        names = [f"{self.runs[of[0]].header['space']}, {self.runs[of[0]].config.strategy}" for of in kinds.values()]
        differing = differences([self.runs[of[0]] for of in kinds.values()], _settings)
        found = []
        for place, of in enumerate(kinds.values()):
            told = [f"{key} {values[place]}" for key, values in differing.items() if key != "strategy"]
            name = ", ".join([names[place], *(told if names.count(names[place]) > 1 else [])])
            counts = [n for n in self.curves[of[0]] if all(n in self.curves[i] for i in of)]
            band = intervals([[self.curves[i][n] for n in counts] for i in of])
            found.append(Group(name, tuple(of), tuple(counts), *(tuple(column) for column in band)))
        return found


def _settings(run: Run) -> dict[str, object]:
    """What two runs must share to differ in their seed alone."""
    of = [f for f in fields(RunConfig) if f.metadata.get("group") != "where" and f.name not in _NO_SETTING]
    return {f.name: getattr(run.config, f.name) for f in of if f.name != "space"}


def _all_settings(run: Run) -> dict[str, object]:
    return {f.name: getattr(run.config, f.name) for f in fields(RunConfig) if f.name not in ("out", "space")}


def differences(
    runs: Sequence[Run], settings: Callable[[Run], Mapping[str, object]] = _all_settings
) -> dict[str, list[str]]:
    """{setting: its value in each run} of those that are not the same in all."""
    tables = [settings(run) for run in runs]
    found = {name: [_shown(t[name]) for t in tables] for name in (tables[0] if tables else ())}
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
    return text or "–"


def coverage(found: Comparison) -> NDArray[np.float64]:
    """(runs, runs): the share of the column's front that some point of the row's front is at least as good as in every
    objective and better in one (Zitzler, Thiele 1999, here strict, so that equal fronts cover nothing); nan for an
    empty front.
    """
    fronts = [minimised([t.values for t in run.front()], found.objectives) for run in found.runs]
    table = np.full((len(fronts), len(fronts)), np.nan)
    for i, a in enumerate(fronts):
        for j, b in enumerate(fronts):
            if len(a) and len(b):
                below = (a[:, None] <= b[None]).all(-1) & (a[:, None] < b[None]).any(-1)
                table[i, j] = below.any(0).mean()
    return table


def compare(folders: Sequence[str]) -> Comparison:
    """ConfigError where a run is given twice, the runs search for different things, or nothing is measured."""
    resolved = [Path(folder).resolve() for folder in folders]
    twice = next((f for i, f in enumerate(folders) if resolved[i] in resolved[:i]), None)
    if twice is not None:
        raise ConfigError(f"{twice}: given twice, which would count one seed as two; give each run once")
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
    totals = [max(len(_first_stage(run)), 1) for run in runs]
    # one grid for all, so that runs of different lengths have evaluations in common
    marks = sorted({*np.linspace(1, max(totals), min(POINTS, max(totals))).astype(int).tolist(), *totals})
    for run, y in zip(runs, tables, strict=True):
        # evaluations count failed and infeasible trials too
        places = [i for i, t in enumerate(_first_stage(run)) if t.state == "done"]
        found.append(
            {n: hypervolume(y[: int(np.searchsorted(places, n))], corner) for n in marks if n <= len(_first_stage(run))}
        )
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
    for group in found.groups:
        if len(group.members) > 1:
            text.append(
                f"{group.name}: hypervolume {group.mean[-1]:.5g} [{group.low[-1]:.5g}, {group.high[-1]:.5g}] over "
                f"{len(group.members)} runs after {group.counts[-1]} evaluations"
            )
    text += [f"{run.path}: {seen_line(run.seen)}" for run in found.runs]
    corner = ", ".join(f"{o.name} {o.sign * v:.4g}" for o, v in zip(found.objectives, found.corner, strict=True))
    return "\n".join([*text, f"hypervolume from {corner}"]) + "\n"


def write_page(path: Path, found: Comparison) -> None:
    """The comparison as one HTML page that loads nothing."""
    from archrank.search.report.comparison import render_comparison

    write_atomic(path, render_comparison(found).encode())
