"""The page in one string: `page.html`, `page.css`, `page.js`, the sections, the figures and plotly.js."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template

from archrank.search.report import sections
from archrank.search.report.calibration import NOTE as CALIBRATION_NOTE
from archrank.search.report.calibration import calibration
from archrank.search.report.coordinates import NOTE as COORDINATES_NOTE
from archrank.search.report.coordinates import coordinates
from archrank.search.report.data import ReportData, Row, chains, read_rows
from archrank.search.report.devices import NOTE as DEVICES_NOTE
from archrank.search.report.devices import devices
from archrank.search.report.devices import table as device_table
from archrank.search.report.figures import Figure
from archrank.search.report.front import hypervolume, scatter
from archrank.search.report.heatmap import heatmap
from archrank.search.report.importance import NOTE as IMPORTANCE_NOTE
from archrank.search.report.importance import importances, refusals
from archrank.search.report.lineage import NOTE as LINEAGE_NOTE
from archrank.search.report.lineage import lineages
from archrank.search.report.pictures import PICTURES_NOTE, pictures
from archrank.search.report.sections import section
from archrank.search.report.stages import against, changing, slopes

NEVER_SELECTED = "Test values were read once, after the choice: never selected on."


def render(data: ReportData) -> str:
    """One HTML page that needs no network: plotly.js (about 4.8 MB) stands inside it once, nothing is loaded.

    The page forbids its browser every request (a content security policy), follows the reader's light or dark
    setting, and keeps its tables without JavaScript. A missing value is no error: the trial is left out of
    the figures that need it.
    """
    body, figures = _body(data)
    return assemble(data.title, body, figures)


def assemble(title: str, body: str, figures: Sequence[Figure]) -> str:
    """The page around a body and the figures that it has places for."""
    # imported here: plotly costs a tenth of a second that `search --help` must not pay
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped,unused-ignore]

    return Template(_text("page.html")).substitute(
        title=escape(title),
        style=_text("page.css"),
        body=body,
        figures=_embedded(figures),
        plotly=get_plotlyjs(),
        script=_text("page.js"),
    )


def _body(data: ReportData) -> tuple[str, list[Figure]]:
    rows = read_rows(data.trials)
    found = chains(rows)
    front, ranks = scatter(data, rows), heatmap(data, rows)
    curve = hypervolume(data) if data.hypervolume else None
    lines, bars, fronts = coordinates(data, rows), importances(data), devices(data, rows)
    moved = [slopes(data, found), against(data, found)] if changing(data, found) else []
    single = len(data.objectives) == 1
    parts = [
        f"<header>{sections.header(data, rows)}</header><main>",
        section(
            "front",
            "Values over evaluations" if single else "The front",
            sections.figure(front, "axes", sections.seen(data)) + sections.constants(data),
            _front_note(data, single),
        ),
        section(
            "devices",
            "The front of each device",
            sections.figure(fronts, "", sections.seen(data)) + device_table(data, rows),
            DEVICES_NOTE,
        ),
        section(
            "hypervolume",
            "Hypervolume over evaluations",
            sections.figure(curve, "hypervolume", sections.seen(data, ("inherited",))),
            sections.reference(data),
        ),
        section(
            "ranks",
            "Rank by layer and kind of module",
            sections.figure(ranks, "point", sections.seen(data)),
            "One point of the front at a time, on one colour scale. A dot is a module that is left alone. "
            "Clicking a point of the front shows it here.",
        ),
        section(
            "stages",
            "The same candidates, inherited and trained",
            sections.moved(moved, sections.seen(data) + calibration(data, found)),
            "Inherited values come from the supernet's shared weights and cost only an evaluation; "
            f"the later stages train the candidate itself. {CALIBRATION_NOTE}",
        ),
        section(
            "coordinates",
            "Objectives and decisions together",
            sections.figure(lines, "", sections.seen(data)),
            COORDINATES_NOTE,
        ),
        section(
            "importance",
            "What matters",
            sections.figure(bars, "for", sections.seen(data)) + refusals(data),
            IMPORTANCE_NOTE,
        ),
        section("pictures", "What the networks look like", pictures(data), PICTURES_NOTE),
        section("table", "Points of the front", sections.front_table(data, rows, found), _table_note(rows, data)),
        section("lineage", "Where these points are from", lineages(data, rows), LINEAGE_NOTE),
        *(section(t.name, t.heading, sections.table(t), t.note) for t in (sections.seen_table(data), *data.tables)),
        section("failed", "Trials without a result", sections.failures(rows)),
        section("phases", "Where the time went", sections.phases(data)),
        section("reproduce", "How to reproduce", sections.reproduce(data)),
        "</main>",
    ]
    return "".join(parts), [f for f in (front, fronts, curve, ranks, *moved, lines, bars) if f is not None and f.views]


def _front_note(data: ReportData, single: bool) -> str:
    if single:
        return "Every trial in the order of its evaluation, by stage."
    line = (
        "The line bounds what some point of the front dominates. "
        if len(data.objectives) == 2
        else "Rings mark the front. "
    )
    return (
        f"{line}Shape and colour tell the stage: an inherited value is an estimate, a final one a full "
        "training. Click a legend entry to hide it."
    )


def _table_note(rows: list[Row], data: ReportData) -> str:
    front = set(data.front)
    tested = NEVER_SELECTED if any(r.test for r in rows if r.id in front) else ""
    form = data.form or ("torch" if data.pictures and not data.modules else "peft")
    take = f"Take one home with <code>search extract RUN --pick ID --as {form} --out DIR</code>."
    return f"{take} {tested}".strip()


def _embedded(figures: Sequence[Figure]) -> str:
    """JSON that is safe inside a script element: `<` is written as an escape, so no text can close it."""
    whole = {
        f.name: {
            "views": [{"key": v.key, "data": v.data, "layout": v.layout} for v in f.views],
            "shared": f.shared,
        }
        for f in figures
    }
    return json.dumps(whole, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _text(name: str) -> str:
    return resources.files("archrank.search.report").joinpath(name).read_text(encoding="utf-8")
