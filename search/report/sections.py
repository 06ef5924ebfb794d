"""The page's sections as HTML; every text that a user, a model or a data set named is escaped here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from archrank.search.report.data import STAGE_NAMES, STAGES, ReportData, Row, Table
from archrank.search.report.figures import Figure, labels, ranks_summary, stage_name
from archrank.search.report.stages import Chain
from archrank.search.report.text import NOTHING, duration, number, shorten

FAILED_SHOWN = 100
"""Rows of the table of failed trials; the counts above it are complete."""


def section(name: str, heading: str, body: str, note: str = "") -> str:
    """A card with a heading; nothing at all for an empty body."""
    if not body:
        return ""
    lead = f'<p class="note">{note}</p>' if note else ""
    return f'<section id="{name}"><h2>{escape(heading)}</h2>{lead}{body}</section>'


def figure(drawn: Figure | None, title: str, below: str = "") -> str:
    """The place of a figure, with a menu where it has several views, and what stands below it."""
    if drawn is None or not drawn.views:
        return ""
    options = "".join(
        f"<option{f' data-key={v.key}' if v.key is not None else ''}>{escape(v.label)}</option>" for v in drawn.views
    )
    hidden = " hidden" if len(drawn.views) == 1 else ""
    menu = f'<label class="menu"{hidden}>{escape(title)} <select>{options}</select></label>'
    plot = f'<div class="plot" role="img" aria-label="{escape(drawn.says or drawn.name)}"></div>'
    return f'<div class="figure" data-figure="{drawn.name}">{menu}{plot}</div>{below}'


def header(data: ReportData, rows: Sequence[Row]) -> str:
    """Title, verdict and key figures."""
    facts = [("task", data.task), ("base", data.base), ("data", data.data)]
    meta = " · ".join(f"<span>{k}</span> {escape(v)}" for k, v in facts if v)
    verdict = f'<p class="verdict">{escape(data.verdict)}</p>' if data.verdict else ""
    return (
        f'<p class="eyebrow">archrank · search report</p><h1>{escape(data.title)}</h1>'
        f'<p class="meta">{meta}</p>{verdict}<div class="tiles">{"".join(_tiles(data, rows))}</div>'
        f"{_warnings(data)}"
    )


def _tiles(data: ReportData, rows: Sequence[Row]) -> list[str]:
    states = Counter(r.state for r in rows)
    lost = [f"{states[s]} {s}" for s in ("failed", "infeasible") if states[s]]
    stages = Counter(r.stage for r in rows if r.state == "done")
    counts = ", ".join(f"{n:,} {stage_name(s)}" for s, n in stages.items())
    tiles = [_tile("trials", f"{len(rows):,}", ", ".join([counts, *lost]) if counts else ", ".join(lost))]
    if data.front:
        tiles.append(_tile("on the front", f"{len(data.front):,}", " × ".join(n for n, _, _ in data.objectives)))
    if data.hypervolume:
        tiles.append(_tile("hypervolume", number(data.hypervolume[-1][1]), _gain(data)))
    if data.phases:
        longest = max(data.phases, key=lambda phase: phase[1])
        tiles.append(_tile("time", duration(sum(s for _, s in data.phases)), f"longest: {longest[0]}"))
    if data.device:
        tiles.append(_tile("device", data.device, data.machine))
    return tiles


def _gain(data: ReportData) -> str:
    """How much the second half of the evaluations still brought: whether more trials are worth their time."""
    last, final = data.hypervolume[-1]
    half = [v for n, v in data.hypervolume if n <= last / 2]
    if not half or half[-1] <= 0:
        return ""
    return f"{(final / half[-1] - 1) * 100:+.1f} % in the second half"


def _tile(name: str, value: str, small: str) -> str:
    return (
        f'<div class="tile"><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="small">{escape(small)}</div></div>'
    )


def _warnings(data: ReportData) -> str:
    items = "".join(f"<li>{escape(w)}</li>" for w in data.warnings)
    return f'<div class="warnings" role="note"><b>Read this first</b><ul>{items}</ul></div>' if items else ""


def constants(data: ReportData) -> str:
    """Quantities that do not depend on the candidate."""
    lines = [
        f"<li><b>{escape(c.name)}</b> = {escape(number(c.value, c.unit, 4))}"
        + (f" <span>{escape(c.note)}</span>" if c.note else "")
        + "</li>"
        for c in data.constants
    ]
    return f'<ul class="constants">{"".join(lines)}</ul>' if lines else ""


def seen(data: ReportData, stages: Sequence[str] = STAGES) -> str:
    """What stands below every figure: how many configurations each method saw at these stages."""
    told = "; ".join(str(s) for s in data.seen if s.stage in stages)
    return f'<p class="note">Configurations seen: {escape(told)}.</p>' if told else ""


def seen_table(data: ReportData) -> Table:
    """The same for the whole run, as a table."""
    rows = [
        [STAGE_NAMES.get(s.stage, s.stage), s.method]
        + [f"{n:,}" for n in (s.configurations, s.seeds, s.infeasible, s.failed, s.stopped_early)]
        for s in data.seen
    ]
    columns = ["stage", "method", "configurations", "seeds", "infeasible", "failed", "stopped early"]
    note = "A best value is the best of that many: compare methods only where they saw equally many, or say so."
    return Table("seen", "What each method saw", columns, rows, note)


def reference(data: ReportData) -> str:
    """The reference point in words."""
    units = {name: unit for name, _, unit in data.objectives}
    point = ", ".join(f"{k} {number(v, units.get(k, ''), 4)}" for k, v in data.reference.items())
    said = f"Reference point: {escape(point)}. " if point else ""
    flat = "A curve that is flat at the end says that more trials would have brought little."
    return f"{said}{escape(data.findings.band.said)} {flat}"


def moved(drawn: Sequence[Figure], table: str) -> str:
    """The figures of the stages beside each other, and how well one predicts the next."""
    if not drawn:
        return ""
    plots = "".join(figure(f, "objective") for f in drawn)
    return f'<div class="pair">{plots}</div>{table}'


def front_table(data: ReportData, rows: Sequence[Row], found: Sequence[Chain]) -> str:
    """The front with every value, its stage, and the test values apart."""
    points = [r for r in rows if r.id in set(data.front)]
    if not points:
        return '<p class="empty">No trial is on the front.</p>'
    names = [name for name, _, _ in data.objectives]
    others = list(dict.fromkeys(k for r in points for k in r.values if k not in names))
    tests = list(dict.fromkeys(k for r in points for k in r.test))
    points.sort(key=lambda r: _order(data, r))
    earlier = {c[s].id: c for c in found for s in c}
    body = "".join(_front_row(data, r, [*names, *others], tests, earlier.get(r.id, {})) for r in points)
    head = _front_head(data, others, tests)
    return f'<div class="scroll"><table class="front">{head}<tbody>{body}</tbody></table></div>'


def _order(data: ReportData, row: Row) -> tuple[float, ...]:
    """By cost, best first, so that the table reads along the front; a missing value comes last."""
    costs = [o for i, o in enumerate(data.objectives) if i != data.quality] or list(data.objectives)
    return tuple(
        (row.values[n] if d == "min" else -row.values[n]) if n in row.values else float("inf") for n, d, _ in costs
    )


def _front_head(data: ReportData, others: Sequence[str], tests: Sequence[str]) -> str:
    arrows = {"min": "↓", "max": "↑"}
    cells = ["<th>point</th><th>stage</th>"]
    cells += [f'<th class="n">{escape(n)} {arrows[d]}{_unit(u)}</th>' for n, d, u in data.objectives]
    cells += [f'<th class="n">{escape(n)}</th>' for n in others]
    cells += [f'<th class="n test">test {escape(n)}</th>' for n in tests]
    cells += ["<th>ranks</th>"] if data.ranks else []
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _unit(unit: str) -> str:
    return f" [{escape(unit)}]" if unit else ""


def _front_row(data: ReportData, row: Row, names: Sequence[str], tests: Sequence[str], chain: Chain) -> str:
    label = labels(data).get(row.id, "")
    badge = f' <span class="badge">{escape(label)}</span>' if label else ""
    cells = [f'<td class="id">#{row.id}{badge}</td><td>{pill(row)}</td>']
    cells += [f'<td class="n">{_value(data, row, n)}{_earlier(data, row, n, chain)}</td>' for n in names]
    cells += [f'<td class="n test">{_number(data, n, row.test.get(n))}</td>' for n in tests]
    if data.ranks:
        ranks = data.ranks.get(row.id)
        cells.append(f'<td class="ranks">{NOTHING if ranks is None else _ranks(ranks, len(data.modules))}</td>')
    wide = len(names) + len(tests) + (3 if data.ranks else 2)
    return (
        f'<tr class="values" data-trial="{row.id}">{"".join(cells)}</tr>'
        f'<tr class="says"><td colspan="{wide}">{sentence(row.text, 120)}</td></tr>'
    )


def _ranks(ranks: Mapping[str, int], modules: int) -> str:
    first, *rest = ranks_summary(ranks, modules).split(", ", 1)
    return escape(first) + "".join(f"<small>{escape(r)}</small>" for r in rest)


def _number(data: ReportData, name: str, value: float | None) -> str:
    unit = {n: u for n, _, u in data.objectives}.get(name, "")
    return escape(number(value, unit, 4, zeros=True))


def _value(data: ReportData, row: Row, name: str) -> str:
    return _number(data, name, row.values.get(name))


def _earlier(data: ReportData, row: Row, name: str, chain: Chain) -> str:
    """The same candidate's values at its earlier stages, where they differ."""
    stages = STAGES[: STAGES.index(row.stage)] if row.stage in STAGES else ()
    before = [chain[s] for s in stages if s in chain and name in chain[s].values]
    differing = [r for r in before if r.values[name] != row.values.get(name)]
    said = "<br>".join(f"{escape(r.stage_name)} {_value(data, r, name)}" for r in differing)
    return f"<small>{said}</small>" if said else ""


def pill(row: Row) -> str:
    """A stage with its colour; an unknown stage has none."""
    known = row.stage if row.stage.isalnum() else "other"
    return f'<span class="pill {known}">{escape(row.stage_name)}</span>'


def sentence(text: str, width: int = 56) -> str:
    """A sentence shortened in the middle, and a button that copies all of it."""
    whole = escape(text)
    return (
        f'<div class="sentence"><code title="{whole}">{escape(shorten(text, width))}</code>'
        f'<button type="button" data-copy="{whole}">copy</button></div>'
    )


def failures(rows: Sequence[Row]) -> str:
    """Trials without values: how many for which reason, then each."""
    lost = [r for r in rows if r.state != "done"]
    if not lost:
        return ""
    counts = Counter((r.state, r.reason or "no reason was recorded") for r in lost)
    items = "".join(
        f'<tr><td class="n">{n}</td><td>{escape(s)}</td><td>{escape(w)}</td></tr>'
        for (s, w), n in counts.most_common(30)
    )
    body = "".join(
        f'<tr><td class="id">#{r.id}</td><td>{escape(r.state)}</td><td>{pill(r)}</td>'
        f"<td>{escape(r.reason or NOTHING)}</td><td>{sentence(r.text)}</td></tr>"
        for r in lost[:FAILED_SHOWN]
    )
    more = f"<p class=note>and {len(lost) - FAILED_SHOWN} more in trials.jsonl</p>" if len(lost) > FAILED_SHOWN else ""
    return (
        '<div class="scroll"><table><thead><tr><th class="n">trials</th><th>state</th><th>reason</th></tr>'
        f"</thead><tbody>{items}</tbody></table></div>"
        f"<details><summary>each of the {len(lost)}</summary>"
        f'<div class="scroll"><table><thead><tr><th>trial</th><th>state</th><th>stage</th><th>reason</th>'
        f"<th>sentence</th></tr></thead><tbody>{body}</tbody></table></div>{more}</details>"
    )


def table(found: Table) -> str:
    """Texts in rows; nothing where there are none."""
    if not found.rows:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in found.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in found.rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def phases(data: ReportData) -> str:
    """Where the time went."""
    whole = sum(s for _, s in data.phases)
    if not data.phases:
        return ""
    body = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{duration(s)}</td>'
        f'<td class="n">{_share(s, whole):.0f} %</td>'
        f'<td class="bar"><i style="width:{_share(s, whole):.1f}%"></i></td></tr>'
        for name, s in data.phases
    )
    total = f'<tr class="total"><td>total</td><td class="n">{duration(whole)}</td><td></td><td></td></tr>'
    return f'<table class="phases"><tbody>{body}{total}</tbody></table>'


def _share(seconds: float, whole: float) -> float:
    return 100 * seconds / whole if whole > 0 else 0.0


def reproduce(data: ReportData) -> str:
    """The command, the seed, the machine, the versions and the whole configuration."""
    parts = []
    if data.command:
        parts.append(
            f'<div class="command"><pre>{escape(data.command)}</pre>'
            f'<button type="button" data-copy="{escape(data.command)}">copy</button></div>'
        )
    facts = [
        ("seed", "" if data.seed is None else str(data.seed)),
        ("device", data.device),
        ("machine", data.machine),
    ]
    facts += list(data.versions.items())
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts if v)
    parts += [f"<dl>{items}</dl>"] if items else []
    if data.config:
        parts.append(
            "<details><summary>the whole configuration (config.toml)</summary>"
            f"<pre>{escape(data.config)}</pre></details>"
        )
    return "".join(parts)
