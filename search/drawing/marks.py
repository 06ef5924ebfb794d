"""The elements that pictures are made of, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from archrank.search.drawing.routes import Point

_CORNER, _HEAD = 7.0, 7.5


def clean(text: str) -> str:
    """Text that any XML reader takes: escaped, without control characters."""
    return escape("".join(c if c.isprintable() else " " for c in text))


def rect(name: str, at: Point, size: Point, radius: float) -> str:
    """A rectangle with round corners."""
    (x, y), (width, height) = at, size
    return f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:g}"/>'


def words(name: str, at: Point, content: str, end: bool = False) -> str:
    """A line of text whose baseline begins at a point, or ends there. `content` is SVG."""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text class="{name}"{anchor} x="{at[0]:.1f}" y="{at[1]:.1f}">{content}</text>'


def tint(at: Point, size: Point, share: float, ends: tuple[bool, bool]) -> str:
    """The ground of a row, the darker the larger its share; round where the box begins and ends."""
    (x, y), (width, height) = at, size
    top, foot = (6 if end else 0 for end in ends)
    outline = (
        f"M{x + top:.1f} {y:.1f}h{width - 2 * top:.1f}q{top} 0 {top} {top}v{height - top - foot:g}q0 {foot} -{foot} "
        f"{foot}h-{width - 2 * foot:.1f}q-{foot} 0 -{foot} -{foot}v-{height - top - foot:g}q0 -{top} {top} -{top}z"
    )
    return f'<path class="tint" opacity="{0.07 + 0.48 * math.sqrt(share):.3f}" d="{outline}"/>'


def behind(at: Point, size: Point) -> str:
    """The edges of two cards behind a frame."""
    (x, y), (width, height) = at, size
    paths = (
        f"M{x + 10 + d:.1f} {y - d:.1f}H{x + width - 8 + d:.1f}q8 0 8 8V{y + height - 10 - d:.1f}" for d in (3.0, 6.0)
    )
    return "".join(f'<path class="behind" d="{path}"/>' for path in paths)


def arrow(points: Sequence[Point], name: str, head: bool) -> str:
    """An orthogonal line with round corners, and its head."""
    x, y = points[-1]
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        path += _turn(before, corner, after)
    line = f'<path class="{name}" d="{path}L{x:.1f} {y - (5 if head else 0):.1f}"/>'
    if not head:
        return line
    return f'{line}<path class="head" d="M{x - 4:.1f} {y - _HEAD:.1f}L{x:.1f} {y:.1f}L{x + 4:.1f} {y - _HEAD:.1f}z"/>'


def _turn(before: Point, corner: Point, after: Point) -> str:
    (x0, y0), (x, y), (x1, y1) = before, corner, after
    one, other = abs(x - x0) + abs(y - y0), abs(x1 - x) + abs(y1 - y)
    radius = min(_CORNER, one / 2, other / 2)
    if radius < 0.5:
        return f"L{x:.1f} {y:.1f}"
    ax, ay = x - radius * (x - x0) / one, y - radius * (y - y0) / one
    bx, by = x + radius * (x1 - x) / other, y + radius * (y1 - y) / other
    return f"L{ax:.1f} {ay:.1f}Q{x:.1f} {y:.1f} {bx:.1f} {by:.1f}"
