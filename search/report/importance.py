"""Which decisions and productions matter: bars with their intervals, or the sentence that says why there are none."""

from __future__ import annotations

from html import escape as html_escape

from archrank.search.report.data import ReportData
from archrank.search.report.figures import Figure, Spec, View, axis, escape, layout
from archrank.search.report.findings import Importance
from archrank.search.report.text import shorten, without_shared_start

SHOWN = 15
NOTE = (
    "How much worse a random forest predicts held-out trials once a feature is shuffled among them, as a share of the "
    "objective's variance (permutation importance, first-stage values). Whiskers: 95 % interval over the trials. "
    "Features that go together share their importance, and a search that looked in one place says little of the others."
)


def importances(data: ReportData) -> Figure:
    """A view for each objective and kind of feature that has figures."""
    known = [i for i in data.findings.importances if not i.refused]
    first = f" For {known[0].objective} most matters {', then '.join(known[0].names[:3])}." if known else ""
    return Figure("importance", [_view(i) for i in known], says=f"Bars of permutation importance.{first}")


def refusals(data: ReportData) -> str:
    """Why an objective has no figures, each reason once; "" where all have."""
    reasons: dict[str, list[str]] = {}
    for i in data.findings.importances:
        if i.refused:
            reasons.setdefault(i.refused, []).append(f"{i.objective} by {i.by}")
    return "".join(
        f'<p class="empty">{html_escape("" if len(of) == len(data.findings.importances) else ", ".join(of) + ": ")}'
        f"{html_escape(reason)}</p>"
        for reason, of in reasons.items()
    )


def _view(found: Importance) -> View:
    names = list(found.names[:SHOWN])
    share, low, high = found.share[:SHOWN], found.low[:SHOWN], found.high[:SHOWN]
    trace: Spec = {
        "type": "bar",
        "orientation": "h",
        "y": [escape(shorten(n, 44)) for n in without_shared_start(names)],
        "x": list(share),
        "marker": {"color": "var(--final)", "opacity": 0.75},
        "error_x": {
            "type": "data",
            "array": [h - s for s, h in zip(share, high, strict=True)],
            "arrayminus": [s - v for s, v in zip(share, low, strict=True)],
            "color": "var(--text)",
            "thickness": 1.2,
            "width": 4,
        },
        "hovertext": [
            f"{escape(n)}<br><b>{s:.3f}</b>, 95 % interval {a:.3f} to {b:.3f}"
            for n, s, a, b in zip(names, share, low, high, strict=True)
        ],
        "hoverinfo": "text",
    }
    title = f"importance for {escape(found.objective)} · held-out R² {found.r2:.2f} over {found.trials:,} trials"
    across = axis(title) | {"zeroline": True, "zerolinecolor": "var(--line)"}
    down = axis("") | {"type": "category", "autorange": "reversed", "showgrid": False, "ticks": ""}
    frame = layout(across, down, height=130 + 26 * len(names), legend=False)
    return View(f"{found.objective} by {found.by}", [trace], frame)
