"""The heat map of ranks: layers across, kinds of module down, one view for each point of the front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from archrank.search.report.data import ReportData, Row
from archrank.search.report.figures import Figure, Spec, View, axis, escape, labels, layout, stage_name
from archrank.search.report.modules import NO_LAYER, Place, places
from archrank.search.report.text import number


def heatmap(data: ReportData, rows: Sequence[Row]) -> Figure:
    """Views in the order of the front; the first chosen point (the knee, where there is one) comes first."""
    known = {r.id: r for r in rows}
    wanted = [*data.chosen.values(), *data.front]
    ids = [i for i in dict.fromkeys(wanted) if i in data.ranks]
    cells = places(data.modules)
    top = max((r for i in ids for r in data.ranks[i].values()), default=0)
    says = f"The rank of each of {len(cells)} modules, by layer and kind, for {len(ids)} points of the front."
    return Figure("heatmap", [_view(data, known[i], cells, top) for i in ids], says=says)


def _view(data: ReportData, row: Row, cells: Sequence[Place], top: int) -> View:
    kinds = list(dict.fromkeys(c.kind for c in cells))
    layers = _layers(cells)
    at = {(c.kind, c.layer): c for c in cells}
    ranks = data.ranks[row.id]
    grid = [[at.get((kind, layer)) for layer in layers] for kind in kinds]
    trace = _trace(grid, ranks, top) | {"x": layers, "y": [escape(k) for k in kinds]}
    across = axis("layer") | {"type": "category", "showgrid": False, "ticks": "", "showline": False}
    down = axis("") | {
        "type": "category",
        "autorange": "reversed",
        "showgrid": False,
        "ticks": "",
        "showline": False,
    }
    frame = layout(across, down, height=120 + 34 * max(len(kinds), 2), legend=False)
    return View(_label(data, row), [trace], frame, key=row.id)


def _layers(cells: Sequence[Place]) -> list[str]:
    numbered = sorted({c.layer for c in cells if c.layer != NO_LAYER}, key=int)
    return numbered + [NO_LAYER] * any(c.layer == NO_LAYER for c in cells)


def _trace(grid: Sequence[Sequence[Place | None]], ranks: Mapping[str, int], top: int) -> Spec:
    """Colour by log2(1 + rank), since ranks double; the same scale in every view so that views compare."""

    def rank(cell: Place | None) -> int | None:
        return None if cell is None else int(ranks.get(cell.name, 0))

    values = [[rank(c) for c in line] for line in grid]
    marks = sorted({0, *(2**i for i in range(12) if 2**i <= top), top})
    return {
        "type": "heatmap",
        "z": [[None if v is None else math.log2(1 + v) for v in line] for line in values],
        "zmin": 0,
        "zmax": math.log2(1 + max(top, 1)),
        "colorscale": [[0, "var(--heat-0)"], [0.5, "var(--heat-1)"], [1, "var(--heat-2)"]],
        "text": [["" if v is None else str(v) if v else "·" for v in line] for line in values],
        "texttemplate": "%{text}",
        "textfont": {"size": 13, "weight": 600},
        "hovertext": [[_say(c, v) for c, v in zip(*pair, strict=True)] for pair in zip(grid, values, strict=True)],
        "hoverinfo": "text",
        "hoverongaps": False,
        "xgap": 3,
        "ygap": 3,
        "colorbar": {
            "title": {"text": "rank", "side": "right"},
            "tickvals": [math.log2(1 + m) for m in marks],
            "ticktext": [str(m) for m in marks],
            "outlinewidth": 0,
            "thickness": 12,
        },
    }


def _say(cell: Place | None, rank: int | None) -> str:
    if cell is None:
        return ""
    return f"{escape(cell.name)}<br>" + (f"rank <b>{rank}</b>" if rank else "left alone")


def _label(data: ReportData, row: Row) -> str:
    values = " · ".join(f"{name} {number(row.values.get(name), unit)}" for name, _, unit in data.objectives)
    name = labels(data).get(row.id, "")
    return f"#{row.id}" + (f" {name}" if name else "") + f" – {values} ({stage_name(row.stage)})"
