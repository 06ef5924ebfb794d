"""Where points of the front are from: a list of steps for each, the first one open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from archrank.search.report.data import ReportData, Row
from archrank.search.report.figures import labels
from archrank.search.report.findings import Step
from archrank.search.report.sections import pill
from archrank.search.report.text import number

NOTE = (
    "From the oldest candidate down to the point itself: each step leads to it from the candidate that was evaluated "
    "before and differs in the fewest decisions, then through its own stages. The log does not say what a strategy "
    "varied, so this is how near the search came step by step, not a record of its moves."
)


def lineages(data: ReportData, rows: Sequence[Row]) -> str:
    """A list that opens for each lineage, oldest candidate first."""
    by_id, named = {r.id: r for r in rows}, labels(data)
    parts = list[str]()
    for lineage in data.findings.lineages:
        forth = list(reversed(lineage.steps))
        trial = forth[-1].trial
        label = f' <span class="badge">{escape(named[trial])}</span>' if trial in named else ""
        steps = _step(data, by_id, forth[0], None)
        steps += "".join(_step(data, by_id, after, before) for before, after in pairwise(forth))
        count = f"{len(forth) - 1} step{'s' if len(forth) != 2 else ''}"
        opened = "" if parts else " open"
        parts.append(
            f"<details{opened}><summary>#{trial}{label} – {count}</summary>"
            f'<ol class="lineage"><li class="relation">{escape(lineage.end)}</li>{steps}</ol></details>'
        )
    return "".join(parts)


def _step(data: ReportData, by_id: Mapping[int, Row], step: Step, before: Step | None) -> str:
    row = by_id[step.trial]
    earlier = by_id[before.trial] if before is not None else None
    values = " · ".join(_value(row, earlier, name, unit) for name, _, unit in data.objectives if name in row.values)
    listed = _changes(before) if before is not None else ""
    return f"<li>{listed}<div><b>#{row.id}</b> {pill(row)} <span>{values}</span></div></li>"


def _changes(before: Step) -> str:
    more = f"<li>and {before.more} more</li>" if before.more else ""
    changes = "".join(f"<li>{escape(c)}</li>" for c in before.changes)
    listed = f'<ul class="changes">{changes}{more}</ul>' if changes else ""
    return f'<div class="relation">{escape(before.relation)}</div>{listed}'


def _value(row: Row, before: Row | None, name: str, unit: str) -> str:
    """A value, after what it was in the step before where that differs."""
    told = escape(number(row.values[name], unit, 4))
    if before is None or name not in before.values or before.values[name] == row.values[name]:
        return f"{escape(name)} {told}"
    return f"{escape(name)} {escape(number(before.values[name], unit, 4))} → {told}"
