"""A picture as SVG: self-contained, light and dark, text that can be selected."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from html import escape

from archrank.grammar.architecture import Architecture
from archrank.search.drawing.blocks import (
    CHARACTER,
    FRAME_BOTTOM,
    FRAME_TOP,
    PADDING,
    ROW,
    Box,
    Sheet,
    Stack,
    Terminal,
    leaving,
    sheet,
    text,
)
from archrank.search.drawing.folding import picture_of
from archrank.search.drawing.picture import DrawingError, Frame, Picture, Row, percent, share, shown_shape
from archrank.search.drawing.routes import Point
from archrank.search.drawing.words import facts

MOST_ROWS = 3000
_MARGIN, _HEAD, _CORNER = 24.0, 64.0, 7.0

STYLE = """
.ar-net{--ink:#1b2330;--muted:#5d6878;--line:#8d99ab;--edge:#c9d1dc;--card:#fff;--page:#f8f9fb;--frame:#eef2f8;--tint:#2459d8;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
@media (prefers-color-scheme:dark){.ar-net{--ink:#e6eaf0;--muted:#9aa6b6;--line:#75839a;--edge:#3b4655;--card:#1d242d;--page:#14181e;
--frame:#1a212a;--tint:#6f9dff}}
.ar-net .page{fill:var(--page)}.ar-net .card{fill:var(--card);stroke:var(--edge)}.ar-net .rule{stroke:var(--edge);stroke-width:.75}
.ar-net .tint{fill:var(--tint)}.ar-net .pill{fill:var(--ink)}.ar-net .pilltext{fill:var(--page)}
.ar-net .frame{fill:var(--frame);stroke:var(--edge)}.ar-net .behind{fill:none;stroke:var(--edge)}.ar-net .tab{fill:var(--tint);font-weight:600;font-size:12px}
.ar-net .arrow{fill:none;stroke:var(--line);stroke-width:1.4}.ar-net .head{fill:var(--line)}
.ar-net .op,.ar-net .pilltext{font:600 12px ui-monospace,"SF Mono","Cascadia Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
.ar-net .op{fill:var(--ink)}.ar-net .arg{font-weight:400;fill:var(--muted)}.ar-net .times{fill:var(--tint)}
.ar-net .shape{font:10.5px ui-monospace,"SF Mono","Cascadia Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:var(--muted)}
.ar-net .name{fill:var(--ink)}.ar-net .track{fill:var(--frame)}.ar-net .halo{paint-order:stroke;stroke:var(--page);stroke-width:4px;stroke-linejoin:round}.ar-net .frame~g .halo,.ar-net .in .halo{stroke:var(--frame)}
.ar-net .title{fill:var(--ink);font-size:16px;font-weight:650}.ar-net .facts{fill:var(--muted);font-size:12.5px}
"""


def svg(architecture: Architecture, title: str = "") -> str:
    """The picture of an architecture: ops in boxes from the input down to the output, equal parts drawn once.

    A row's tint grows with its share of the parameters. `title` stands at the top. Raises DrawingError where there are
    more than MOST_ROWS rows to draw.
    """
    picture = picture_of(architecture)
    if picture.rows() > MOST_ROWS:
        raise DrawingError(
            f"the picture would have {picture.rows():,} rows, at most {MOST_ROWS:,} are drawn; `search explain` lists the "
            "ops, and --format ascii draws any number"
        )
    drawn = sheet(picture, (f"input {shown_shape(architecture.input)}", f"output {shown_shape(architecture.shape)}"))
    told = facts(architecture)
    body = "".join(_Writer(architecture.params).sheet(drawn, 0.0, 0.0))
    return page((drawn.placed.width, drawn.placed.height), title or "Architecture", told, body)


def page(size: tuple[float, float], title: str, told: str, body: str) -> str:
    """The whole file: a drawing of a size under its title and a line of facts."""
    heading = max(len(told) * 6.6, len(title) * 9.0)
    width, height = max(size[0], heading) + 2 * _MARGIN, size[1] + _HEAD + 2 * _MARGIN
    name = "ar" + hashlib.sha256((title + body).encode()).hexdigest()[:10]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ar-net" role="img" aria-labelledby="{name}t {name}d" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:100%;height:auto">'
        f'<title id="{name}t">{_xml(title)}</title><desc id="{name}d">{_xml(told)}</desc><style>{STYLE}</style>'
        f'<rect class="page" width="100%" height="100%" rx="12"/>'
        f'<text class="title" x="{_MARGIN}" y="{_MARGIN + 16}">{_xml(title)}</text>'
        f'<text class="facts" x="{_MARGIN}" y="{_MARGIN + 37}">{_xml(told)}</text>'
        f'<g transform="translate({(width - size[0]) / 2:.1f} {_HEAD + _MARGIN:.1f})">{body}</g></svg>\n'
    )


def _xml(text: str) -> str:
    """Text that any XML reader takes: escaped, without control characters."""
    return escape("".join(c if c.isprintable() else " " for c in text))


class _Writer:
    """Writes sheets; `whole`: the parameters of the architecture, `copies`: how often the sheet at hand stands."""

    def __init__(self, whole: int, copies: int = 1) -> None:
        self.whole, self.copies = whole, copies

    def sheet(self, drawn: Sheet, dx: float, dy: float) -> Iterator[str]:
        """The blocks and arrows of a sheet at an offset."""
        for e, arrow in enumerate(drawn.arrows):
            points = [(x + dx, y + dy) for x, y in drawn.placed.routes[e]]
            target = drawn.blocks[arrow.target]
            ended = bool(arrow.times) and not isinstance(target, Box) and target.size[1] > 0
            yield _arrow(points, ended, dashed=not arrow.times)
            if arrow.times > 1:
                x, y = points[-1]
                yield f'<text class="shape halo times" x="{x + 7:.1f}" y="{y - 3:.1f}">× {arrow.times}</text>'
        for block, centre, top, label in zip(
            drawn.blocks, drawn.centres, drawn.placed.tops, drawn.labels, strict=True
        ):
            width, height = block.size
            x, y = dx + centre - width / 2, dy + top
            if isinstance(block, Stack):
                yield from self._stack(block, x, y)
            elif isinstance(block, Terminal):
                yield from _pill(block, x, y)
            else:
                yield from self._frame(block, x, y)
            if label:
                yield f'<text class="shape halo" x="{dx + centre + leaving(block)[1] + 6:.1f}" y="{y + height + 13:.1f}">{label}</text>'

    def _stack(self, block: Stack, x: float, y: float) -> Iterator[str]:
        width, height = block.size
        yield f'<rect class="card" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6"/>'
        for k, (row, shape) in enumerate(zip(block.rows, block.changes, strict=True)):
            yield from self._row(row, shape, (x, y + k * ROW, width), (k, len(block.rows), any(block.changes)))

    def _row(
        self, row: Row, shape: str, at: tuple[float, float, float], place: tuple[int, int, bool]
    ) -> Iterator[str]:
        """One op; `place`: which row of how many, and whether shapes stand beside the ops of the box."""
        (x, y, width), (k, rows, listed) = at, place
        ends = (k == 0, k == rows - 1)
        part = share(row.params * row.times * self.copies, self.whole)
        yield f"<g><title>{escape(self._told(row, part))}</title>"
        if part:
            yield f'<path class="tint" opacity="{0.07 + 0.48 * math.sqrt(part):.3f}" d="{_tab(x, y, width, ends)}"/>'
        if not ends[0]:
            yield f'<path class="rule" d="M{x:.1f} {y:.1f}h{width:.1f}"/>'
        times = f'<tspan class="times"> × {row.times}</tspan>' if row.times > 1 else ""
        arguments = f'<tspan class="arg"> {escape(row.arguments)}</tspan>' if row.arguments else ""
        middle = y + ROW / 2 + 4
        left = x + PADDING if listed else x + (width - CHARACTER * len(text(row))) / 2
        yield f'<text class="op" x="{left:.1f}" y="{middle:.1f}">{escape(row.op)}{arguments}{times}</text>'
        if shape:
            yield f'<text class="shape" text-anchor="end" x="{x + width - 9:.1f}" y="{middle:.1f}">{shape}</text>'
        yield "</g>"

    def _told(self, row: Row, part: float) -> str:
        told = f"{row.word}: {shown_shape(row.takes)} → {shown_shape(row.shape)}"
        if row.params:
            told += f", {row.params:,} parameters"
        if row.flops:
            told += f", {row.flops:,} FLOPs"
        count = row.times * self.copies
        return told + (f", {count} of these" if count > 1 else "") + (f", {percent(part)} of all parameters" if part else "")

    def _frame(self, block: Box, x: float, y: float) -> Iterator[str]:
        width, height = block.size
        inside = _Writer(self.whole, self.copies * block.frame.count)
        inner, offset = block.inside, x + block.left
        begin, end = offset + inner.centres[0], offset + inner.centres[-1]
        behind = "" if block.frame.sequence else self._behind(x, y, width, height)
        yield f'<g class="in">{behind}<rect class="frame" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="10"/>'
        yield f'<text class="tab" x="{x + 12:.1f}" y="{y + 18:.1f}">{block.frame.word}</text>'
        yield f'<path class="arrow" d="M{begin:.1f} {y:.1f}v{FRAME_TOP}M{end:.1f} {y + height:.1f}v-{FRAME_BOTTOM}"/>'
        yield from inside.sheet(inner, offset, y + FRAME_TOP)
        yield "</g>"

    def _behind(self, x: float, y: float, width: float, height: float) -> str:
        """The edges of the cards behind a part that stands several times side by side."""
        return "".join(
            f'<path class="behind" d="M{x + 10 + d:.1f} {y - d}H{x + width - 8 + d:.1f}q8 0 8 8V{y + height - 10 - d:.1f}"/>'
            for d in (3.0, 6.0)
        )


def _pill(block: Terminal, x: float, y: float) -> Iterator[str]:
    if block.label:
        width, height = block.size
        yield f'<rect class="pill" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{height / 2}"/>'
        yield f'<text class="pilltext" x="{x + PADDING:.1f}" y="{y + height / 2 + 4:.1f}">{escape(block.label)}</text>'


def _tab(x: float, y: float, width: float, ends: tuple[bool, bool]) -> str:
    """A row's ground, round where the box is."""
    top, foot = (6.0 if end else 0.0 for end in ends)
    return (
        f"M{x + top:.1f} {y:.1f}h{width - 2 * top:.1f}q{top} 0 {top} {top}v{ROW - top - foot}q0 {foot} -{foot} {foot}"
        f"h-{width - 2 * foot:.1f}q-{foot} 0 -{foot} -{foot}v-{ROW - top - foot}q0 -{top} {top} -{top}z"
    )


def _arrow(points: Sequence[Point], ended: bool, dashed: bool) -> str:
    """An orthogonal line with round corners, and its head."""
    x, y = points[-1]
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        path += _corner(before, corner, after)
    path += f"L{x:.1f} {y - (5 if ended else 0):.1f}"
    head = f'<path class="head" d="M{x - 4:.1f} {y - 7.5:.1f}L{x:.1f} {y:.1f}L{x + 4:.1f} {y - 7.5:.1f}z"/>' if ended else ""
    return f'<path class="arrow"{" stroke-dasharray=%s" % chr(34) + "2 4" + chr(34) if dashed else ""} d="{path}"/>{head}'


def _corner(before: Point, corner: Point, after: Point) -> str:
    (x0, y0), (x, y), (x1, y1) = before, corner, after
    one, other = abs(x - x0) + abs(y - y0), abs(x1 - x) + abs(y1 - y)
    radius = min(_CORNER, one / 2, other / 2)
    if radius < 0.5:
        return f"L{x:.1f} {y:.1f}"
    ax, ay = x - radius * (x - x0) / one, y - radius * (y - y0) / one
    bx, by = x + radius * (x1 - x) / other, y + radius * (y1 - y) / other
    return f"L{ax:.1f} {ay:.1f}Q{x:.1f} {y:.1f} {bx:.1f} {by:.1f}"
