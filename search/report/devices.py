"""The front of each device by itself: the same quality against what each device takes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as html_escape

from archrank.search.report.data import ReportData, Row
from archrank.search.report.figures import Figure, Scale, Spec, View, escape, hover, layout, stage_name
from archrank.search.report.front import COST_SPREAD, QUALITY_SPREAD
from archrank.search.report.text import number

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "triangle-down", "pentagon", "hexagon")
NOTE = (
    "Each line is the front of the quality and one device's own cost, at each candidate's latest stage. A candidate on "
    "one front alone pays on that device and not on the others."
)


def devices(data: ReportData, rows: Sequence[Row]) -> Figure:
    """One line a device; the costs of all on one axis."""
    by_id = {r.id: r for r in rows}
    quality = data.objectives[data.quality]
    traces: list[Spec] = []
    values: list[float] = []
    for place, (name, ids) in enumerate(data.findings.device_fronts.items()):
        points = sorted((by_id[i] for i in ids), key=lambda r: r.values[name])
        values += [r.values[name] for r in points]
        color = f"var(--series-{place % 8})"
        better = {n: d for n, d, _ in data.objectives}[name]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"{escape(_device(name))} ({len(points)})",
                "x": [r.values[name] for r in points],
                "y": [r.values[quality[0]] for r in points],
                "line": {"shape": "hv" if better == "min" else "vh", "width": 2, "color": color},
                "marker": {"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 9, "color": color},
                "hovertext": [hover(r, data, _device(name)) for r in points],
                "hoverinfo": "text",
                "customdata": [r.id for r in points],
            }
        )
    if not values:
        return Figure("devices", [])
    first = next(o for o in data.objectives if o[0] in data.findings.device_fronts)
    up = Scale.of(quality, [v for t in traces for v in t["y"]], QUALITY_SPREAD)
    across = Scale.of((first[0].split("@")[0], first[1], first[2]), values, COST_SPREAD)
    frame = layout(across.axis(False), up.axis(False), height=440)
    says = "; ".join(f"{_device(n)}: {len(ids)} points" for n, ids in data.findings.device_fronts.items())
    return Figure("devices", [View("devices", traces, frame)], says=f"The fronts of each device: {says}.")


def _device(name: str) -> str:
    return name.partition("@")[2]


def table(data: ReportData, rows: Sequence[Row]) -> str:
    """Every candidate of some device's front, and on which it stands."""
    fronts = {name: set(ids) for name, ids in data.findings.device_fronts.items()}
    units = {n: u for n, _, u in data.objectives}
    quality = data.objectives[data.quality][0]
    points = [r for r in rows if any(r.id in ids for ids in fronts.values())]
    if not points:
        return ""
    points.sort(key=lambda r: r.values[next(iter(fronts))])
    head = "".join(f'<th class="n">{html_escape(name)}</th>' for name in fronts)
    body = "".join(
        f'<tr><td class="id">#{r.id}</td><td>{html_escape(stage_name(r.stage))}</td>'
        f'<td class="n">{html_escape(number(r.values[quality], units[quality], 4, zeros=True))}</td>'
        + "".join(_cell(r, name, units[name], r.id in ids) for name, ids in fronts.items())
        + "</tr>"
        for r in points
    )
    shared = sum(all(r.id in ids for ids in fronts.values()) for r in points)
    said = f"{shared} of the {len(points)} candidates stand on every device's front."
    return (
        f"<p>{said}</p><details><summary>which candidate stands on which front</summary>"
        f'<div class="scroll"><table><thead><tr><th>trial</th><th>stage</th><th class="n">{html_escape(quality)}</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _cell(row: Row, name: str, unit: str, on: bool) -> str:
    value = html_escape(number(row.values[name], unit, 4, zeros=True))
    return f'<td class="n">{f"<b>{value}</b> ✓" if on else value}</td>'
