"""How well an early value predicts a later one of the same candidates: rank correlation, mean change, spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from statistics import fmean, stdev

from archrank.search.report.data import STAGES, ReportData
from archrank.search.report.figures import stage_name
from archrank.search.report.stages import Chain, changing, pairs_of
from archrank.search.report.text import NOTHING, number

FEWEST = 8
"""Pairs from which an interval is drawn."""
DRAWS = 1000
NOTE = (
    "τ is Kendall's rank correlation (τ-b) over the candidates that have both values; in brackets, from "
    f"{FEWEST} candidates on, its 95 % interval, the percentile bootstrap over them. These were promoted for their "
    "early values, so it is not the τ of all candidates. Spread: the standard deviation of the change."
)


def calibration(data: ReportData, found: Sequence[Chain]) -> str:
    """A row for each objective that changes and each pair of stages: successive ones, and the first with the last."""
    stages = [s for s in STAGES if any(s in c for c in found)]
    steps = list(pairwise(stages))
    steps += [(stages[0], stages[-1])] if len(stages) > 2 else []
    rows = [_row(found, o, *step) for o in changing(data, found) for step in steps]
    body = "".join(rows)
    if not body:
        return ""
    head = (
        '<tr><th>value</th><th>from → to</th><th class="n">candidates</th><th class="n">Kendall τ</th>'
        '<th class="n">mean change</th><th class="n">spread</th></tr>'
    )
    return f'<div class="scroll"><table class="calibration"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _row(found: Sequence[Chain], objective: tuple[str, str, str], first: str, second: str) -> str:
    name, _, unit = objective
    pairs = pairs_of(found, name, first, second)
    if len(pairs) < 2:
        return ""
    before, after = [a.values[name] for a, _ in pairs], [b.values[name] for _, b in pairs]
    change = [b - a for a, b in zip(before, after, strict=True)]
    cells = [str(len(pairs)), agreement(before, after), _signed(fmean(change), unit), number(stdev(change), unit)]
    told = "".join(f'<td class="n">{escape(c)}</td>' for c in cells)
    return f"<tr><td>{escape(name)}</td><td>{stage_name(first)} → {stage_name(second)}</td>{told}</tr>"


def agreement(before: Sequence[float], after: Sequence[float]) -> str:
    """``0.62 [0.31, 0.84]``: τ-b and its interval; a dash where a side is constant.

    No interval below FEWEST pairs, and none at ±1: where all pairs agree, so do those of every resample.
    """
    # imported here: `search --help` and a progress line load the report's words and must not pay for numpy
    import numpy as np

    from archrank.predictors.metrics import bootstrap, kendall

    tau = kendall(before, after)
    if math.isnan(tau):
        return NOTHING
    if len(before) < FEWEST or abs(tau) == 1:
        return f"{tau:.2f}"
    low, high = bootstrap(kendall, before, after, np.random.default_rng(0), level=0.95, draws=DRAWS)
    return f"{tau:.2f} [{low:.2f}, {high:.2f}]"


def _signed(value: float, unit: str) -> str:
    return ("+" if value > 0 else "") + number(value, unit)
