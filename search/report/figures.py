"""Plotly figures as plain dictionaries: a figure is one or more views, and the page's script draws one.

Colours stand as `var(--name)` and are read from the style sheet when the page draws: one figure serves light
and dark. `ref:NAME` stands for the array of that name in `shared`, so that views repeat no text.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from archrank.search.report.data import STAGE_NAMES, STAGES, ReportData, Row
from archrank.search.report.text import number, short_number, shorten

Spec = dict[str, Any]

MARKERS: Mapping[str, Spec] = {
    "inherited": {"symbol": "circle", "size": 7, "color": "var(--inherited)", "opacity": 0.55},
    "measured": {"symbol": "circle", "size": 8, "color": "var(--measured)", "opacity": 0.75},
    "reranked": {"symbol": "diamond", "size": 10, "color": "var(--reranked)", "opacity": 0.95},
    "final": {"symbol": "square", "size": 11, "color": "var(--final)", "opacity": 1.0},
}
"""A stage is told apart by shape as well as by colour."""


@dataclass(frozen=True)
class View:
    """One drawing; `key` is the trial it is about, where it is about one."""

    label: str
    data: list[Spec]
    layout: Spec
    key: int | None = None


@dataclass(frozen=True)
class Figure:
    """Views to choose from under one heading; `says`: the figure in words, for those who do not see it."""

    name: str
    views: list[View]
    shared: dict[str, list[Any]] = field(default_factory=dict)
    says: str = ""


@dataclass(frozen=True)
class Scale:
    """One axis; on a logarithmic one a zero is drawn at `floor`, half of the smallest positive value."""

    name: str
    direction: str
    unit: str
    log: bool
    floor: float
    top: float

    @classmethod
    def of(cls, objective: tuple[str, str, str], values: Iterable[float], spread: float) -> Scale:
        """Logarithmic where positive values span at least the factor `spread`."""
        name, direction, unit = objective
        found = list(values)
        positive = [v for v in found if v > 0]
        log = bool(positive) and min(found) >= 0 and max(positive) / min(positive) >= spread
        floor = min(positive) / (2 if min(found) <= 0 else 1) if log else 0.0
        return cls(name, direction, unit, log, floor, max(found, default=0.0))

    def place(self, value: float | None) -> float | None:
        """Where a value is drawn, in data units."""
        return value if value is None or not self.log else max(value, self.floor)

    def position(self, value: float) -> float:
        """Where an annotation of that value stands; plotly wants the exponent on a logarithmic axis."""
        return math.log10(max(value, self.floor)) if self.log else value

    def axis(self, zero: bool) -> Spec:
        """The layout of the axis; `zero`: some value is drawn at the floor."""
        unit = f" [{self.unit}]" if self.unit else ""
        better = "lower" if self.direction == "min" else "higher"
        title = f"{escape(shorten(self.name + unit, 60))} · {better} is better"
        spec = axis(title)
        if self.log:
            ticks = [t for t in _ticks(self.floor, self.top) if not zero or t > self.floor]
            texts = [short_number(t, self.unit) for t in ticks]
            if zero:
                ticks, texts = [self.floor, *ticks], ["0", *texts]
            spec |= {"type": "log", "tickvals": ticks, "ticktext": texts}
        return spec


def _ticks(low: float, high: float) -> list[float]:
    steps = (1.0, 2.0, 5.0) if high / low < 3e3 else (1.0,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [s * 10.0**e for e in exponents for s in steps if low / 1.3 <= s * 10.0**e <= high * 1.3]


def axis(title: str) -> Spec:
    """A quiet axis in the page's colours."""
    return {
        "title": {"text": title, "font": {"size": 13, "color": "var(--muted)"}, "standoff": 12},
        "gridcolor": "var(--grid)",
        "linecolor": "var(--line)",
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "var(--line)",
        "automargin": True,
    }


def layout(x: Spec, y: Spec, *, height: int = 440, legend: bool = True) -> Spec:
    """The frame that all figures share."""
    return {
        "height": height,
        "margin": {"l": 64, "r": 24, "t": 64 if legend else 32, "b": 56},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "var(--font)", "size": 13, "color": "var(--text)"},
        "hovermode": "closest",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "var(--line)", "activecolor": "var(--accent)"},
        "hoverlabel": {
            "align": "left",
            "bgcolor": "var(--card)",
            "bordercolor": "var(--line)",
            "font": {"family": "var(--font)", "size": 13, "color": "var(--text)"},
        },
        "showlegend": legend,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
        "xaxis": x,
        "yaxis": y,
    }


def escape(text: str) -> str:
    """User text inside plotly, which reads a little HTML of its own."""
    return html.escape(text, quote=False)


def hover(row: Row, data: ReportData, label: str = "") -> str:
    """What a point says: id, stage, every value with its unit, ranks, the shortened sentence."""
    units = {name: unit for name, _, unit in data.objectives}
    head = f"<b>#{row.id}</b> · {escape(row.stage_name)}" + (f" · <b>{escape(label)}</b>" if label else "")
    lines = [head]
    lines += [f"{escape(k)}: <b>{escape(number(v, units.get(k, ''), 4))}</b>" for k, v in row.values.items()]
    if row.id in data.ranks:
        lines.append(escape(ranks_summary(data.ranks[row.id], len(data.modules))))
    sentence = textwrap.wrap(shorten(row.text, 180), 62)
    lines += [f"<i>{escape(part)}</i>" for part in sentence]
    return "<br>".join(lines)


def ranks_summary(ranks: Mapping[str, int], modules: int) -> str:
    """``ranks 1–8, sum 42, in 14 of 18 modules``."""
    used = [int(r) for r in ranks.values() if r > 0]
    if not used:
        return "no module carries an adapter"
    low, high = min(used), max(used)
    span = f"rank {low}" if low == high else f"ranks {low}–{high}"
    return f"{span}, sum {sum(used)}, in {len(used)} of {max(modules, len(used))} modules"


def by_stage(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The finished rows of each stage, early stages first so that late ones are drawn on top."""
    done = [r for r in rows if r.state == "done"]
    names = [*STAGES, *sorted({r.stage for r in done} - set(STAGES))]
    return [(s, found) for s in names if (found := [r for r in done if r.stage == s])]


def stage_name(stage: str) -> str:
    """A stage as the legend writes it."""
    return STAGE_NAMES.get(stage, stage) or "no stage"


def marker(stage: str) -> Spec:
    """The look of a stage; an unknown one looks measured."""
    return {**MARKERS.get(stage, MARKERS["measured"]), "line": {"width": 1, "color": "var(--card)"}}


def labels(data: ReportData) -> dict[int, str]:
    """Trial id to the names under which it was chosen."""
    found: dict[int, list[str]] = {}
    for label, trial in data.chosen.items():
        found.setdefault(trial, []).append(label)
    return {trial: " · ".join(names) for trial, names in found.items()}
