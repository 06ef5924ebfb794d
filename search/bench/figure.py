"""A benchmark's curves as one HTML page that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from archrank.search.bench.cells import Cell, intervals
from archrank.search.bench.task import Task
from archrank.search.storage import write_atomic

__all__ = ["curves", "write_plot"]

COLOURS = ("#0b6e99", "#d1495b", "#3d8b37", "#8d5a97", "#c77d1e", "#4a4a4a", "#17a398", "#a44a3f")


def curves(series: Mapping[str, Sequence[Mapping[int, float]]]) -> list[dict[str, Any]]:
    """Plotly traces: for each name (seeds of {evaluations: value}) its mean and the 95 % interval around it."""
    traces: list[dict[str, Any]] = []
    for place, (name, of) in enumerate(series.items()):
        x = [n for n in of[0] if all(n in c for c in of)]
        mean, low, high = intervals([[c[n] for n in x] for c in of])
        colour = COLOURS[place % len(COLOURS)]
        if len(of) > 1:
            band = {"x": x + x[::-1], "y": high + low[::-1], "fill": "toself", "fillcolor": colour, "opacity": 0.15}
            traces.append({**band, "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "type": "scatter"})
        traces.append({"x": x, "y": mean, "name": name, "mode": "lines", "line": {"color": colour}, "type": "scatter"})
    return traces


def page(title: str, note: str, figures: Sequence[tuple[list[dict[str, Any]], dict[str, Any]]]) -> str:
    """Figures (traces, layout) under one title, plotly.js inside."""
    import json

    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped,unused-ignore]

    drawn = "".join(
        f'<div id="f{i}" style="height:460px"></div><script>Plotly.newPlot("f{i}", {_safe(json.dumps(data))}, '
        f"{_safe(json.dumps(layout))}, {{displaylogo: false, responsive: true}})</script>"
        for i, (data, layout) in enumerate(figures)
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; "
        "style-src 'unsafe-inline'; img-src data: blob:\">"
        "<style>body{font:15px system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem}</style>"
        f"<h1>{escape(title)}</h1><p>{escape(note)}</p><script>{get_plotlyjs()}</script>{drawn}</html>\n"
    )


def _safe(text: str) -> str:
    return text.replace("<", "\\u003c")


def write_plot(path: Path, task: Task, cells: Mapping[str, Sequence[Cell]]) -> None:
    """Regret or hypervolume ratio over evaluations, the mean over seeds with its 95 % interval."""
    seeds = len(next(iter(cells.values())))
    label = "regret" if task.measure == "regret" else "hypervolume ratio"
    layout = {
        "xaxis": {"title": {"text": "evaluations"}, "type": "log"},
        "yaxis": {"title": {"text": label}},
        "margin": {"t": 20},
    }
    data = curves({name: [c.curve for c in of] for name, of in cells.items()})
    note = f"Mean over {seeds} seeds; the bands are 95 % intervals of the mean."
    write_atomic(path, page(f"{task.name}: {label}", note, [(data, layout)]).encode())
