"""The figures of a search: quality against cost, hypervolume, and the values of a single objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from archrank.search.report.data import ReportData, Row
from archrank.search.report.figures import (
    Figure,
    Scale,
    Spec,
    View,
    axis,
    by_stage,
    escape,
    hover,
    labels,
    layout,
    marker,
    stage_name,
)
from archrank.search.report.findings import Band
from archrank.search.report.text import number, shorten

QUALITY_SPREAD, COST_SPREAD = 100.0, 8.0
"""Costs vary by factors and are read as such; a quality is a difference until it spans two decades."""


def scatter(data: ReportData, rows: Sequence[Row]) -> Figure:
    """Every finished trial by stage, the front on top; one view for each pair of objectives."""
    done = sum(r.state == "done" for r in rows)
    names = " and ".join(name for name, _, _ in data.objectives)
    says = f"{names} of {done:,} finished trials, {len(data.front):,} of them on the front."
    if len(data.objectives) == 1:
        return Figure("front", [_over_evaluations(data, rows)], _hovers(data, rows), says)
    order = [data.quality, *(i for i in range(len(data.objectives)) if i != data.quality)]
    return Figure("front", [_pair(data, rows, x, y) for y, x in combinations(order, 2)], _hovers(data, rows), says)


def _hovers(data: ReportData, rows: Sequence[Row]) -> dict[str, list[str]]:
    named = labels(data)
    return {f"hover:{stage}": [hover(r, data, named.get(r.id, "")) for r in found] for stage, found in by_stage(rows)}


def _scale(data: ReportData, rows: Sequence[Row], index: int) -> tuple[Scale, bool]:
    objective = data.objectives[index]
    values = [r.values[objective[0]] for r in rows if r.state == "done" and objective[0] in r.values]
    scale = Scale.of(objective, values, QUALITY_SPREAD if index == data.quality else COST_SPREAD)
    return scale, scale.log and min(values) <= 0


def _points(stage: str, rows: Sequence[Row], x: Sequence[float | None], y: Sequence[float | None]) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{escape(stage_name(stage))} ({len(rows)})",
        "x": list(x),
        "y": list(y),
        "marker": marker(stage),
        "hovertext": f"ref:hover:{stage}",
        "hoverinfo": "text",
        "customdata": [r.id for r in rows],
    }


def _pair(data: ReportData, rows: Sequence[Row], x: int, y: int) -> View:
    (across, zero_x), (up, zero_y) = _scale(data, rows, x), _scale(data, rows, y)
    traces = [
        _points(
            stage,
            found,
            [across.place(r.values.get(across.name)) for r in found],
            [up.place(r.values.get(up.name)) for r in found],
        )
        for stage, found in by_stage(rows)
    ]
    front = [r for r in rows if r.id in set(data.front) and {across.name, up.name} <= r.values.keys()]
    front.sort(key=lambda r: r.values[across.name])
    frame = layout(across.axis(zero_x), up.axis(zero_y), height=520)
    frame["annotations"] = _annotations(data, front, across, up)
    label = f"{up.name} against {across.name}"
    return View(label, [_front_line(data, front, across, up), *traces], frame)


def _front_line(data: ReportData, front: Sequence[Row], across: Scale, up: Scale) -> Spec:
    """The border of what is dominated; with three objectives a pair has no such border, so only rings."""
    two = len(data.objectives) == 2
    return {
        "type": "scatter",
        "mode": "lines+markers" if two else "markers",
        "name": f"front ({len(front)})",
        "x": [across.place(r.values[across.name]) for r in front],
        "y": [up.place(r.values[up.name]) for r in front],
        "line": {"shape": "hv" if across.direction == "min" else "vh", "width": 2, "color": "var(--front)"},
        "marker": {"symbol": "circle-open", "size": 17, "color": "var(--front)", "line": {"width": 1.5}},
        "hoverinfo": "skip",
    }


def _annotations(data: ReportData, front: Sequence[Row], across: Scale, up: Scale) -> list[Spec]:
    """Names of the chosen points, on the side where nothing can lie: the one that would dominate them."""
    named, found = labels(data), []
    for row in (r for r in front if r.id in named):
        found.append(
            {
                "x": across.position(row.values[across.name]),
                "y": up.position(row.values[up.name]),
                "text": f"<b>{escape(shorten(named[row.id], 40))}</b>",
                "ax": -34 if across.direction == "min" else 34,
                "ay": 34 if up.direction == "min" else -34,
                "xanchor": "right" if across.direction == "min" else "left",
                "showarrow": True,
                "arrowhead": 0,
                "arrowwidth": 1.5,
                "arrowcolor": "var(--front)",
                "standoff": 9,
                "font": {"color": "var(--front)", "size": 13},
                "bgcolor": "var(--card)",
                "borderpad": 2,
            }
        )
    return found


def _over_evaluations(data: ReportData, rows: Sequence[Row]) -> View:
    """One objective: its values in the order of evaluation and the best so far of the first stage."""
    scale, zero = _scale(data, rows, 0)
    stages = by_stage(rows)
    turn = {r.id: n for n, r in enumerate((r for r in rows if r.state == "done"), start=1)}
    traces: list[Spec] = []
    for stage, found in stages:
        values = [scale.place(r.values.get(scale.name)) for r in found]
        traces.append(_points(stage, found, [turn[r.id] for r in found], values))
    if stages:
        traces.insert(0, _best_so_far(scale, stages[0], turn))
    frame = layout(axis("evaluations"), scale.axis(zero), height=460)
    return View(scale.name, traces, frame)


def _best_so_far(scale: Scale, stage: tuple[str, Sequence[Row]], turn: dict[int, int]) -> Spec:
    pick, best = (min, math.inf) if scale.direction == "min" else (max, -math.inf)
    x, y = [], []
    for row in (r for r in stage[1] if scale.name in r.values):
        best = pick(best, row.values[scale.name])
        x.append(turn[row.id])
        y.append(scale.place(best))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"best so far, {escape(stage_name(stage[0]))}",
        "x": x,
        "y": y,
        "line": {"shape": "hv", "width": 2, "color": "var(--front)"},
        "hoverinfo": "skip",
    }


def hypervolume(data: ReportData) -> Figure:
    """Hypervolume over evaluations, with the interval where there is one."""
    counts, volumes = [int(n) for n, _ in data.hypervolume], [float(v) for _, v in data.hypervolume]
    trace = {
        "type": "scatter",
        "mode": "lines",
        "name": "values as counted",
        "x": counts,
        "y": volumes,
        "line": {"shape": "hv", "width": 2.5, "color": "var(--final)"},
        "hovertext": [
            f"{n:,} evaluations<br>hypervolume <b>{number(v, '', 4)}</b>" for n, v in zip(counts, volumes, strict=True)
        ],
        "hoverinfo": "text",
    }
    band = _band(data.findings.band)
    frame = layout(axis("evaluations"), axis("hypervolume · higher is better"), height=380, legend=bool(band))
    says = f"Hypervolume over evaluations: {number(volumes[-1], '', 4)} after {counts[-1]:,}."
    if band:
        low, middle, high = (number(v, "", 4) for v in data.findings.band.points[-1][1:])
        says += f" The same front, trained: {middle}, 90 % interval {low} to {high}."
    return Figure("hypervolume", [View("hypervolume", [*band, trace], frame)], says=says)


def _band(band: Band) -> list[Spec]:
    """The interval as an area, its middle as a dashed line."""
    if not band.points:
        return []
    x, low, middle, high = (list(column) for column in zip(*band.points, strict=True))
    quiet = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "line": {"shape": "hv", "width": 0}}
    line = {"shape": "hv", "width": 1.8, "dash": "dash", "color": "var(--reranked)"}
    told = [
        f"{n:,} evaluations, the front trained<br>hypervolume <b>{number(m, '', 4)}</b>"
        f"<br>90 % interval {number(a, '', 4)} to {number(b, '', 4)}"
        for n, a, m, b in band.points
    ]
    return [
        {**quiet, "x": x, "y": low, "showlegend": False},
        {**quiet, "x": x, "y": high, "name": "90 % interval", "fill": "tonexty", "fillcolor": "var(--band)"},
        {**quiet, "x": x, "y": middle, "name": "the front trained (median)", "line": line}
        | {"hoverinfo": "text", "hovertext": told},
    ]
