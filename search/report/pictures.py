"""The networks of the report: one drawing each, the first one open."""

from __future__ import annotations

from html import escape

from archrank.search.report.data import ReportData
from archrank.search.report.figures import labels

PICTURES_NOTE = (
    "From the input down; equal parts are drawn once, with their number. The tint of an op is its share of the "
    "parameters; resting on an op tells its sizes."
)


def pictures(data: ReportData) -> str:
    """A drawing that opens for each trial that has one; they are SVG of `search.drawing`, whose texts are escaped."""
    named = labels(data)
    parts = list[str]()
    for trial, drawing in data.pictures.items():
        label = f" · {named[trial]}" if trial in named else ""
        opened = "" if parts else " open"
        parts.append(f"<details{opened}><summary>#{trial}{escape(label)}</summary>{drawing}</details>")
    return "".join(parts)
