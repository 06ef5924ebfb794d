"""The page of `search compare`: several runs with the same objectives, side by side."""

from __future__ import annotations

import math
from html import escape as html_escape
from itertools import combinations
from typing import TYPE_CHECKING

from archrank.search.counts import seen_line
from archrank.search.report.devices import SYMBOLS
from archrank.search.report.figures import Figure, Scale, Spec, View, axis, escape, layout
from archrank.search.report.front import COST_SPREAD, QUALITY_SPREAD
from archrank.search.report.page import assemble
from archrank.search.report.sections import figure, section
from archrank.search.report.text import NOTHING, duration, number, shorten

if TYPE_CHECKING:
    from archrank.search.comparing import Comparison

_COLOURS = 8


def render_comparison(found: Comparison) -> str:
    """One HTML page: the runs, their fronts, hypervolume curves with intervals, coverage, the settings that differ.

    Fronts are at each candidate's latest stage; hypervolumes of first-stage values, from one corner for all runs.
    """
    from archrank.search.comparing import coverage, differences

    drawn = [f for f in (_fronts(found), _curves(found)) if f.views]
    places = {f.name: f for f in drawn}
    several = any(len(group.members) > 1 for group in found.groups)
    spaces = list(dict.fromkeys(str(run.header["space"]) for run in found.runs))
    corner = ", ".join(
        f"{o.name} {number(o.sign * v, o.unit, 4)}" for o, v in zip(found.objectives, found.corner, strict=True)
    )
    band = (
        "Runs that differ in their seed alone share a colour: thick their mean, the area its 95 % interval (Student's "
        "t over the runs), thin each run. "
        if several
        else "No two of these runs differ in their seed alone, so there is no interval. "
    )
    body = [
        '<header><p class="eyebrow">archrank · runs compared</p>'
        f"<h1>{len(found.runs)} runs of {html_escape(', '.join(spaces))}</h1>"
        f'<p class="meta"><span>objectives</span> {html_escape(", ".join(map(str, found.objectives)))}</p>',
        "</header><main>",
        section("runs", "The runs", _runs(found) + _seen(found)),
        section(
            "fronts",
            "The fronts",
            figure(places.get("fronts"), "axes"),
            "Each candidate at its latest stage, so a run that trained its finalists does not compare here with one "
            "that did not. Click a legend entry to hide it.",
        ),
        section(
            "hypervolume",
            "Hypervolume over evaluations",
            figure(places.get("hypervolume"), "") + _groups(found),
            f"{band}First-stage values, measured from {html_escape(corner)}: the worst of all runs and a tenth more.",
        ),
        section(
            "coverage",
            "Whose points beat whose",
            _coverage(found, coverage(found).tolist()),
            "The share of the column's front that some point of the row's front dominates (coverage, Zitzler and "
            "Thiele 1999).",
        ),
        section("settings", "What differs in the settings", _settings(found, differences(found.runs))),
        "</main>",
    ]
    return assemble("Runs compared", "".join(body), drawn)


def _colour(found: Comparison, run: int) -> str:
    place = next(i for i, group in enumerate(found.groups) if run in group.members)
    return f"var(--series-{place % _COLOURS})"


def _label(found: Comparison, run: int) -> str:
    return shorten(str(found.runs[run].path), 40)


def _fronts(found: Comparison) -> Figure:
    """One view for each pair of objectives; runs of a group share a colour and differ in the shape."""
    if len(found.objectives) < 2:
        return Figure("fronts", [])
    views = [_pair(found, y, x) for y, x in combinations(range(len(found.objectives)), 2)]
    counts = ", ".join(f"{_label(found, i)}: {len(run.front())} points" for i, run in enumerate(found.runs))
    return Figure("fronts", views, says=f"The fronts of the runs. {counts}.")


def _pair(found: Comparison, y: int, x: int) -> View:
    up, across = found.objectives[y], found.objectives[x]
    fronts = [sorted(run.front(), key=lambda t: t.values[across.name]) for run in found.runs]
    values = [(t.values[across.name], t.values[up.name]) for front in fronts for t in front]
    scales = [
        Scale.of((o.name, o.direction, o.unit), [v[k] for v in values], spread)
        for k, (o, spread) in enumerate(((across, COST_SPREAD), (up, QUALITY_SPREAD if y == 0 else COST_SPREAD)))
    ]
    two = len(found.objectives) == 2
    traces: list[Spec] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if two else "markers",
            "name": f"{escape(_label(found, i))} ({len(front)})",
            "x": [scales[0].place(t.values[across.name]) for t in front],
            "y": [scales[1].place(t.values[up.name]) for t in front],
            "line": {"shape": "hv" if across.direction == "min" else "vh", "width": 1.8, "color": _colour(found, i)},
            "marker": {"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8, "color": _colour(found, i)},
            "hovertext": [
                f"<b>{escape(_label(found, i))} #{t.id}</b> · {t.stage}<br>"
                + "<br>".join(f"{escape(o.name)}: {number(t.values[o.name], o.unit, 4)}" for o in found.objectives)
                + f"<br><i>{escape(shorten(t.text, 100))}</i>"
                for t in front
            ],
            "hoverinfo": "text",
        }
        for i, front in enumerate(fronts)
    ]
    zero = [scale.log and any(v[k] <= 0 for v in values) for k, scale in enumerate(scales)]
    frame = layout(scales[0].axis(zero[0]), scales[1].axis(zero[1]), height=480)
    return View(f"{up.name} against {across.name}", traces, frame)


def _curves(found: Comparison) -> Figure:
    traces: list[Spec] = []
    quiet = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False}
    for place, group in enumerate(found.groups):
        colour = f"var(--series-{place % _COLOURS})"
        x = list(group.counts)
        if len(group.members) > 1:
            edge = {**quiet, "x": x, "line": {"width": 0, "shape": "hv"}}
            filled = {"fill": "tonexty", "fillcolor": f"var(--area-{place % _COLOURS})"}
            traces += [{**edge, "y": list(group.low)}, {**edge, "y": list(group.high), **filled}]
            for i in group.members:
                curve = found.curves[i]
                thin = {"width": 0.8, "color": colour, "shape": "hv"}
                traces.append({**quiet, "x": list(curve), "y": list(curve.values()), "line": thin, "opacity": 0.55})
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{escape(group.name)} ({_many(len(group.members))})",
                "x": x,
                "y": list(group.mean),
                "line": {"width": 2.5, "color": colour, "shape": "hv"},
                "hovertext": [
                    f"{n:,} evaluations<br>{_told(group.mean[k], group.low[k], group.high[k])}" for k, n in enumerate(x)
                ],
                "hoverinfo": "text",
            }
        )
    frame = layout(axis("evaluations"), axis("hypervolume · higher is better"), height=420)
    ends = "; ".join(f"{g.name}: {_told(g.mean[-1], g.low[-1], g.high[-1])}" for g in found.groups if g.counts)
    return Figure("hypervolume", [View("hypervolume", traces, frame)], says=f"Hypervolume at the end. {ends}.")


def _many(runs: int) -> str:
    return f"{runs} runs" if runs != 1 else "1 run"


def _told(mean: float, low: float, high: float) -> str:
    interval = f", 95 % interval {number(low, '', 4)} to {number(high, '', 4)}" if low < high else ""
    return f"hypervolume {number(mean, '', 4)}{interval}"


def _runs(found: Comparison) -> str:
    head = ["run", "strategy", "seed", "trials", "on the front", *(f"best {o.name}" for o in found.objectives)]
    rows = []
    for i, run in enumerate(found.runs):
        front = run.front()
        best = [
            number(front.best(o.name).values[o.name], o.unit, 4) if len(front) else NOTHING for o in found.objectives
        ]
        curve = list(found.curves[i].values())
        cells = [str(run.config.seed), f"{len(run.trials):,}", str(len(front)), *best]
        cells += [number(curve[-1], "", 4) if curve else NOTHING, duration(run.seconds)]
        rows.append([str(run.path), run.config.strategy, *cells])
    return _table([*head, "hypervolume", "time"], rows, words=2)


def _seen(found: Comparison) -> str:
    """What each method of each run saw."""
    lines = [f"{_label(found, i)}: {seen_line(run.seen)}" for i, run in enumerate(found.runs)]
    return "".join(f'<p class="note">{html_escape(line)}</p>' for line in lines)


def _groups(found: Comparison) -> str:
    rows = []
    for g in found.groups:
        if g.counts:
            ends = f"{number(g.low[-1], '', 4)} … {number(g.high[-1], '', 4)}" if len(g.members) > 1 else NOTHING
            rows.append([g.name, str(len(g.members)), f"{g.counts[-1]:,}", number(g.mean[-1], "", 4), ends])
    head = ["runs that share all but their seed", "runs", "evaluations", "mean hypervolume", "95 % interval"]
    return _table(head, rows)


def _coverage(found: Comparison, table: list[list[float]]) -> str:
    names = [_label(found, i) for i in range(len(found.runs))]
    rows = [
        [name, *(NOTHING if i == j or math.isnan(v) else f"{v:.0%}" for j, v in enumerate(line))]
        for i, (name, line) in enumerate(zip(names, table, strict=True))
    ]
    return _table(["beats", *names], rows) if len(names) > 1 else ""


def _settings(found: Comparison, differing: dict[str, list[str]]) -> str:
    rows = [[name, *values] for name, values in differing.items()]
    return (
        _table(["setting", *(_label(found, i) for i in range(len(found.runs)))], rows, len(found.runs) + 1)
        if rows
        else ""
    )


def _table(head: list[str], rows: list[list[str]], words: int = 1) -> str:
    """The first `words` columns are words, the others numbers."""
    kinds = ["" if i < words else ' class="n"' for i in range(len(head))]
    top = "".join(f'<th scope="col"{k}>{html_escape(c)}</th>' for c, k in zip(head, kinds, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{k}>{html_escape(c)}</td>' for c, k in zip(row, kinds, strict=True))}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
