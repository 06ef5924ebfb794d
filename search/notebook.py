"""How a run and a front show themselves in a notebook: HTML tables without scripts or styles of their own."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from archrank.search.report.data import STAGE_NAMES
from archrank.search.report.text import number, shorten

if TYPE_CHECKING:
    from archrank.search.pareto import ParetoFront
    from archrank.search.results import Run

__all__ = ["front_html", "run_html"]

SHOWN = 20
_SENTENCE = 80


def front_html(front: ParetoFront) -> str:
    """A table, a row a trial: id, stage, objectives, sentence; at most SHOWN rows."""
    if not len(front):
        return "<p>The front is empty: no finished trial meets the constraints.</p>"
    arrows = {"min": "↓", "max": "↑"}
    head = ["id", "stage", *(f"{o.name} {arrows[o.direction]}" for o in front.objectives), "sentence"]
    rows = [
        [str(t.id), STAGE_NAMES.get(t.stage, t.stage)]
        + [number(t.values[o.name], o.unit, 4) for o in front.objectives]
        + [shorten(t.text, _SENTENCE)]
        for t in front.trials[:SHOWN]
    ]
    more = f"<p>and {len(front) - SHOWN} more</p>" if len(front) > SHOWN else ""
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{_cells('th', head)}</tr></thead><tbody>{body}</tbody></table>{more}"


def run_html(run: Run) -> str:
    """Where it lies and how far it is, then its front."""
    from archrank.search.watching import line

    name = "a search" if run.given is not None else str(run.path)
    return f"<p><b>{escape(name)}</b> · {escape(line(run))}</p>{front_html(run.front())}"


def _cells(kind: str, texts: Iterable[str]) -> str:
    return "".join(f'<{kind} style="text-align:left">{escape(text)}</{kind}>' for text in texts)
