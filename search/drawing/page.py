"""A whole SVG file: title, line of facts, drawing, style for light and dark."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from archrank.search.drawing.marks import clean, words
from archrank.search.drawing.routes import Point

_MARGIN, _HEAD = 24.0, 64.0
_TITLE, _FACTS = 9.2, 6.7


def page(size: Point, title: str, facts: str, body: str) -> str:
    """The file for a drawing of a size; title and facts are told to readers that do not see it."""
    width = max(size[0], len(title) * _TITLE, len(facts) * _FACTS) + 2 * _MARGIN
    height = size[1] + _HEAD + 2 * _MARGIN
    name = "ar" + hashlib.sha256((title + body).encode()).hexdigest()[:10]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ar-net" role="img" aria-labelledby="{name}t {name}d" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width:100%;height:auto">'
        f'<title id="{name}t">{clean(title)}</title><desc id="{name}d">{clean(facts)}</desc><style>{style()}</style>'
        f'<rect class="page" width="100%" height="100%" rx="12"/>'
        + words("title", (_MARGIN, _MARGIN + 16), clean(title))
        + words("facts", (_MARGIN, _MARGIN + 37), clean(facts))
        + f'<g transform="translate({(width - size[0]) / 2:.1f} {_HEAD + _MARGIN:.1f})">{body}</g></svg>\n'
    )


@cache
def style() -> str:
    """The style sheet; every rule holds inside of `.ar-net` alone, so that a page can hold the drawing."""
    return resources.files("archrank.search.drawing").joinpath("style.css").read_text(encoding="utf-8")
