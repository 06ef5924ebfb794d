"""Do inherited scores tell the truth? The same candidates inherited, re-ranked and final."""

from __future__ import annotations

from collections.abc import Sequence

from archrank.search.report.data import STAGES, ReportData, Row
from archrank.search.report.figures import Figure, Spec, View, axis, escape, hover, layout, marker, stage_name
from archrank.search.report.text import number

Chain = dict[str, Row]


def changing(data: ReportData, found: Sequence[Chain]) -> list[tuple[str, str, str]]:
    """The objectives that differ between stages; a closed-form cost does not and needs no comparison."""
    return [o for o in data.objectives if any(len(set(_values(c, o[0]).values())) > 1 for c in found)]


def _values(chain: Chain, name: str) -> dict[str, float]:
    return {stage: row.values[name] for stage, row in chain.items() if name in row.values}


def _seen(found: Sequence[Chain]) -> list[str]:
    return [s for s in STAGES if any(s in c for c in found)]


def slopes(data: ReportData, found: Sequence[Chain]) -> Figure:
    """One line a candidate, through its stages."""
    says = f"{len(found)} candidates, each a line through its values at {', '.join(map(stage_name, _seen(found)))}."
    return Figure("slopes", [_slope(data, found, o) for o in changing(data, found)], says=says)


def _slope(data: ReportData, found: Sequence[Chain], objective: tuple[str, str, str]) -> View:
    name, _, unit = objective
    stages = _seen(found)
    x: list[str | None] = []
    y: list[float | None] = []
    for chain in found:
        values = _values(chain, name)
        x += [stage_name(s) for s in stages if s in values] + [None]
        y += [values[s] for s in stages if s in values] + [None]
    lines: Spec = {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "line": {"width": 1.3, "color": "var(--slope)"},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    traces = [_stage_points(data, found, name, s) for s in stages]
    title = escape(f"{name} [{unit}]" if unit else name)
    across = axis("") | {"categoryorder": "array", "categoryarray": [stage_name(s) for s in stages]}
    frame = layout(across | {"showgrid": False, "range": [-0.25, len(stages) - 0.75]}, axis(title), height=420)
    return View(name, [lines, *traces], frame)


def _stage_points(data: ReportData, found: Sequence[Chain], name: str, stage: str) -> Spec:
    rows = list({c[stage].id: c[stage] for c in found if stage in c and name in c[stage].values}.values())
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{escape(stage_name(stage))} ({len(rows)})",
        "x": [stage_name(stage)] * len(rows),
        "y": [r.values[name] for r in rows],
        "marker": marker(stage) | {"opacity": 1.0, "size": 9},
        "hovertext": [hover(r, data) for r in rows],
        "hoverinfo": "text",
        "customdata": [r.id for r in rows],
    }


def against(data: ReportData, found: Sequence[Chain]) -> Figure:
    """Later values against the first stage's, with the line on which nothing changed."""
    says = f"Later values of {len(found)} candidates against their first; the table below tells how well they agree."
    return Figure("against", [_against(data, found, o) for o in changing(data, found)], says=says)


def _against(data: ReportData, found: Sequence[Chain], objective: tuple[str, str, str]) -> View:
    name, _, unit = objective
    first, *later = _seen(found)
    traces: list[Spec] = []
    ends: list[float] = []
    for stage in later:
        pairs = pairs_of(found, name, first, stage)
        ends += [v.values[name] for pair in pairs for v in pair]
        point = _stage_points(data, found, name, stage)
        point |= {"x": [a.values[name] for a, _ in pairs], "y": [b.values[name] for _, b in pairs]}
        point |= {
            "hovertext": [_moved(data, a, b, objective) for a, b in pairs],
            "customdata": [b.id for _, b in pairs],
        }
        traces.append(point)
    low, high = min(ends), max(ends)
    equal = {
        "type": "scatter",
        "mode": "lines",
        "name": "unchanged",
        "x": [low, high],
        "y": [low, high],
        "line": {"dash": "dash", "width": 1.5, "color": "var(--muted)"},
        "hoverinfo": "skip",
    }
    suffix = f" [{unit}]" if unit else ""
    x, y = axis(escape(f"{name}{suffix}, {stage_name(first)}")), axis(escape(f"{name}{suffix}, later stage"))
    return View(name, [equal, *traces], layout(x, y, height=420))


def pairs_of(found: Sequence[Chain], name: str, first: str, second: str) -> list[tuple[Row, Row]]:
    """Each (earlier row, later row) once."""
    both = [c for c in found if first in c and second in c and name in c[first].values and name in c[second].values]
    return list({(c[first].id, c[second].id): (c[first], c[second]) for c in both}.values())


def _moved(data: ReportData, before: Row, after: Row, objective: tuple[str, str, str]) -> str:
    name, _, unit = objective
    old, new = number(before.values[name], unit, 4), number(after.values[name], unit, 4)
    line = f"{stage_name(before.stage)} (#{before.id}) {old} → {stage_name(after.stage)} {new}"
    return f"{hover(after, data)}<br>{escape(line)}"
