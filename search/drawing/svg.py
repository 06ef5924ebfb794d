"""A picture as SVG: self-contained, light and dark, text that can be selected."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from archrank.grammar.architecture import Architecture
from archrank.search.drawing.blocks import (
    CHARACTER,
    FRAME_BOTTOM,
    FRAME_TOP,
    PADDING,
    ROW,
    Arrow,
    Box,
    Sheet,
    Stack,
    Terminal,
    leaving,
    sheet,
    text,
)
from archrank.search.drawing.folding import picture_of
from archrank.search.drawing.marks import arrow, behind, clean, rect, tint, words
from archrank.search.drawing.page import page
from archrank.search.drawing.picture import DrawingError, Row, percent, share, shown_shape
from archrank.search.drawing.routes import Point
from archrank.search.drawing.words import facts

MOST_ROWS = 3000


def svg(architecture: Architecture, title: str = "") -> str:
    """The picture of an architecture: ops in boxes from the input down to the output, equal parts drawn once.

    A row's tint grows with its share of the parameters. `title` stands at the top. Raises DrawingError where there are
    more than MOST_ROWS rows to draw, or more than layers.MOST_POINTS places that arrows pass.
    """
    picture = picture_of(architecture)
    if picture.rows() > MOST_ROWS:
        raise DrawingError(
            f"the picture would have {picture.rows():,} rows, at most {MOST_ROWS:,} are drawn; --format ascii draws "
            "any number, a line an op"
        )
    drawn = sheet(picture, (f"input {shown_shape(architecture.input)}", f"output {shown_shape(architecture.shape)}"))
    body = "".join(_Writer(architecture.params, 1).sheet(drawn, (0.0, 0.0)))
    return page((drawn.placed.width, drawn.placed.height), title or "Architecture", facts(architecture), body)


class _Writer:
    """Writes sheets; `whole`: the parameters of the architecture, `copies`: how often the sheet at hand stands."""

    def __init__(self, whole: int, copies: int) -> None:
        self.whole, self.copies = whole, copies

    def sheet(self, drawn: Sheet, corner: Point) -> Iterator[str]:
        """The arrows and blocks of a sheet whose left upper corner is given."""
        for value, route in zip(drawn.arrows, drawn.placed.routes, strict=True):
            yield from _value(drawn, value, [(x + corner[0], y + corner[1]) for x, y in route])
        for block, centre, top, label in zip(drawn.blocks, drawn.centres, drawn.placed.tops, drawn.labels, strict=True):
            at = (corner[0] + centre - block.size[0] / 2, corner[1] + top)
            if isinstance(block, Stack):
                yield from self._stack(block, at)
            elif isinstance(block, Terminal):
                yield from _pill(block, at)
            else:
                yield from self._frame(block, at)
            if label:
                foot = (corner[0] + centre + leaving(block)[1] + 6, at[1] + block.size[1] + 13)
                yield words("shape halo", foot, label)

    def _stack(self, block: Stack, at: Point) -> Iterator[str]:
        width, last = block.size[0], len(block.rows) - 1
        yield rect("card", at, block.size, 6)
        for k, (row, shape) in enumerate(zip(block.rows, block.changes, strict=True)):
            corner = (at[0], at[1] + k * ROW)
            part = share(row.params * row.times * self.copies, self.whole)
            yield f"<g><title>{clean(self._told(row, part))}</title>"
            if part:
                yield tint(corner, (width, ROW), part, (k == 0, k == last))
            if k:
                yield f'<path class="rule" d="M{corner[0]:.1f} {corner[1]:.1f}h{width:.1f}"/>'
            yield from _row(row, shape, corner, width, listed=any(block.changes))
            yield "</g>"

    def _told(self, row: Row, part: float) -> str:
        """What a pointer that rests on a row is told."""
        told = [f"{row.full}: {shown_shape(row.takes)} → {shown_shape(row.shape)}"]
        count = row.times * self.copies
        told += [f"{row.params:,} parameters"] if row.params else []
        told += [f"{row.flops:,} FLOPs"] if row.flops else []
        told += [f"{count} of these"] if count > 1 else []
        return ", ".join([*told, f"{percent(part)} of all parameters"] if part else told)

    def _frame(self, block: Box, at: Point) -> Iterator[str]:
        (x, y), (_, height), inner = at, block.size, block.inside
        begin, end = (x + block.left + centre for centre in (inner.centres[0], inner.centres[-1]))
        yield '<g class="in">' + ("" if block.frame.sequence else behind(at, block.size))
        yield rect("frame", at, block.size, 10) + words("tab", (x + 12, y + 18), block.frame.word)
        yield f'<path class="arrow" d="M{begin:.1f} {y:.1f}v{FRAME_TOP}M{end:.1f} {y + height:.1f}v-{FRAME_BOTTOM}"/>'
        yield from _Writer(self.whole, self.copies * block.frame.count).sheet(inner, (x + block.left, y + FRAME_TOP))
        yield "</g>"


def _value(drawn: Sheet, value: Arrow, route: list[Point]) -> Iterator[str]:
    """The arrow of a value; no head where it only goes on into a frame, or out of one."""
    target = drawn.blocks[value.target]
    head = bool(value.times) and not isinstance(target, Box) and target.size[1] > 0
    yield arrow(route, "arrow" if value.times else "arrow unread", head)
    if value.times > 1:
        yield words("shape halo times", (route[-1][0] + 7, route[-1][1] - 3), f"× {value.times}")


def _row(row: Row, shape: str, corner: Point, width: float, listed: bool) -> Iterator[str]:
    """An op's text: at the left where shapes stand beside the ops of its box, else in the middle."""
    middle = corner[1] + ROW / 2 + 4
    arguments = f'<tspan class="arg"> {clean(row.shown)}</tspan>' if row.arguments else ""
    times = f'<tspan class="times"> × {row.times}</tspan>' if row.times > 1 else ""
    left = PADDING if listed else (width - CHARACTER * len(text(row))) / 2
    yield words("op", (corner[0] + left, middle), f"{escape(row.op)}{arguments}{times}")
    if shape:
        yield words("shape", (corner[0] + width - 9, middle), shape, end=True)


def _pill(block: Terminal, at: Point) -> Iterator[str]:
    if block.label:
        yield rect("pill", at, block.size, block.size[1] / 2)
        yield words("pilltext", (at[0] + PADDING, at[1] + block.size[1] / 2 + 4), clean(block.label))
