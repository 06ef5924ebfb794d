"""Parallel coordinates: each candidate a line over the objectives and a few features of its derivation.

Drawn from ordinary lines: plotly's own kind needs WebGL and compiles code, which the page's security policy forbids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archrank.search.report.data import ReportData, Row
from archrank.search.report.figures import Figure, Scale, Spec, View, axis, escape, layout
from archrank.search.report.front import COST_SPREAD, QUALITY_SPREAD
from archrank.search.report.text import folded, number, short_number, without_shared_start

MOST = 600
"""Lines that are drawn; those of the front always."""
FIFTH = 5
WIDTH = 11
"""Letters of a line of an axis's title."""
NOTE = (
    "A line is a candidate with its first-stage values; each axis runs from the smallest value to the largest, the "
    "arrow says where it is better. Beside the objectives stand the decisions and the uses of a production that go "
    "most with the quality (Spearman's ρ). Click a legend entry to hide it."
)


@dataclass(frozen=True)
class _Axis:
    """One axis: its name and title, each trial's place in [0, 1], what stands at its ends, what a hover says."""

    name: str
    title: str
    at: Mapping[int, float]
    low: str
    high: str
    told: Mapping[int, str]


def coordinates(data: ReportData, rows: Sequence[Row]) -> Figure | None:
    """The trials of the first stage that have every objective; None where there are no features or fewer than two
    trials.
    """
    names = [name for name, _, _ in data.objectives]
    known = [r for r in rows if r.state == "done" and r.stage == "inherited" and all(n in r.values for n in names)]
    known = [r for r in known if all(r.id in f.values for f in data.findings.features)]
    if not data.findings.features or len(known) < 2:
        return None
    axes = [_objective(data, known, i) for i in range(len(names))]
    # a single module among the features is named as briefly as beside the others of its base
    left = iter(without_shared_start([*(f.name for f in data.findings.features if "." in f.name), *data.modules]))
    for f in data.findings.features:
        axes.append(_feature(next(left) if "." in f.name else f.name, {r.id: f.values[r.id] for r in known}))
    groups = _groups(data, rows, known)
    traces = [_lines(axes, label, of, look) for label, of, look in groups if of]
    says = (
        f"Parallel coordinates of {len(known)} candidates at their first stage, over "
        f"{', '.join(a.name for a in axes)}; "
        f"{len(groups[-1][1])} of them are on the front."
    )
    return Figure("coordinates", [View("coordinates", traces, _frame(axes))], says=says)


def _objective(data: ReportData, rows: Sequence[Row], index: int) -> _Axis:
    name, direction, unit = data.objectives[index]
    values = {r.id: r.values[name] for r in rows}
    scale = Scale.of(data.objectives[index], values.values(), QUALITY_SPREAD if index == data.quality else COST_SPREAD)
    placed = {i: math.log10(max(v, scale.floor)) if scale.log else v for i, v in values.items()}
    low, high = min(values.values()), max(values.values())
    told = {i: f"{escape(name)}: <b>{escape(number(v, unit, 4))}</b>" for i, v in values.items()}
    lines = folded(name, WIDTH)
    title = f"<b>{'<br>'.join(map(escape, lines))} {'↓' if direction == 'min' else '↑'}</b>"
    return _Axis(
        name,
        title + ("<br>logarithmic" if scale.log else ""),
        _unit(placed),
        short_number(low, unit),
        short_number(high, unit),
        told,
    )


def _feature(name: str, values: Mapping[int, float]) -> _Axis:
    low, high = min(values.values()), max(values.values())
    told = {i: f"{escape(name)}: {number(v)}" for i, v in values.items()}
    return _Axis(name, "<br>".join(map(escape, folded(name, WIDTH))), _unit(values), number(low), number(high), told)


def _unit(values: Mapping[int, float]) -> dict[int, float]:
    low, high = min(values.values()), max(values.values())
    width = high - low
    return {i: (v - low) / width if width else 0.5 for i, v in values.items()}


def _groups(data: ReportData, rows: Sequence[Row], known: Sequence[Row]) -> list[tuple[str, list[Row], Spec]]:
    """(label, candidates, line): the others, the best fifth by quality, the front; what is drawn last is on top."""
    name, direction, _ = data.objectives[data.quality]
    chosen = set(data.front)
    texts = {r.text for r in rows if r.id in chosen}
    front = [r for r in known if r.text in texts]
    rest = [r for r in known if r.text not in texts]
    rest.sort(key=lambda r: r.values[name] if direction == "min" else -r.values[name])
    cut = math.ceil(len(rest) / FIFTH)
    best, others = _thinned(rest[:cut], MOST // FIFTH), _thinned(rest[cut:], MOST - MOST // FIFTH)
    return [
        ("others", others, {"width": 1, "color": "var(--slope)"}),
        (f"best fifth of the rest by {name}", best, {"width": 1.2, "color": "var(--measured)"}),
        ("on the front", front, {"width": 2.2, "color": "var(--final)"}),
    ]


def _thinned(rows: Sequence[Row], most: int) -> list[Row]:
    return list(rows) if len(rows) <= most else [rows[k * len(rows) // most] for k in range(most)]


def _lines(axes: Sequence[_Axis], label: str, rows: Sequence[Row], line: Spec) -> Spec:
    """One trace; a gap ends each candidate's line."""
    x: list[int | None] = []
    y: list[float | None] = []
    told: list[str] = []
    for row in rows:
        x += [*range(len(axes)), None]
        y += [*(round(a.at[row.id], 4) for a in axes), None]
        told += [*(f"<b>#{row.id}</b> · {a.told[row.id]}" for a in axes), ""]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{escape(label)} ({len(rows)})",
        "x": x,
        "y": y,
        "line": line,
        "opacity": 0.6 if line["color"] == "var(--slope)" else 0.85,
        "hovertext": told,
        "hoverinfo": "text",
        "customdata": [r.id for r in rows for _ in range(len(axes) + 1)],
    }


def _frame(axes: Sequence[_Axis]) -> Spec:
    places = list(range(len(axes)))
    across = axis("") | {"tickvals": places, "ticktext": [a.title for a in axes], "side": "bottom", "ticks": ""}
    across |= {
        "range": [-0.35, len(axes) - 0.65],
        "gridcolor": "var(--line)",
        "showline": False,
        "tickangle": 0,
        "tickfont": {"size": 12},
    }
    down = axis("") | {
        "range": [-0.09, 1.09],
        "showgrid": False,
        "showticklabels": False,
        "ticks": "",
        "showline": False,
    }
    frame = layout(across, down, height=440)
    frame["margin"] |= {"l": 24, "b": 76}
    frame["annotations"] = [
        {
            "x": i,
            "y": y,
            "text": escape(text),
            "showarrow": False,
            "yanchor": anchor,
            "font": {"color": "var(--muted)", "size": 12},
        }
        for i, a in enumerate(axes)
        for y, text, anchor in ((0, a.low, "top"), (1, a.high, "bottom"))
    ]
    return frame
