"""The ranks of a base's modules as bars: SVG and text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from archrank.search.drawing.blocks import CHARACTER
from archrank.search.drawing.lanes import LEAST_WIDTH, cut
from archrank.search.drawing.marks import clean, rect, words
from archrank.search.drawing.page import page

_ROW, _BAR, _LONGEST_BAR = 22.0, 320.0, 48
_LONGEST_NAME = 48


@dataclass(frozen=True, slots=True)
class Bar:
    """One module: `label` what it gets (`lora(8)`), "" where it is left alone; `rank`; `params` of its adapter."""

    module: str
    label: str
    rank: int
    params: int

    @property
    def told(self) -> str:
        """What stands behind the bar."""
        return f"{self.label}  {self.params:,}" if self.label else "left alone"


def summary(bars: Sequence[Bar]) -> str:
    """`14 of 18 modules adapted · ranks 1–16, sum 62 · 20,480 adapter parameters`."""
    ranks = [bar.rank for bar in bars if bar.label]
    params = f"{sum(bar.params for bar in bars):,} adapter parameters"
    if not ranks:
        return f"none of {len(bars)} modules adapted · {params}"
    span = f"rank {ranks[0]}" if len(set(ranks)) == 1 else f"ranks {min(ranks)}–{max(ranks)}"
    return f"{len(ranks)} of {len(bars)} modules adapted · {span}, sum {sum(ranks)} · {params}"


def rank_ascii(bars: Sequence[Bar], title: str = "", width: int = 100) -> str:
    """A line a module, its bar as long as its rank; at most `width` characters (at least LEAST_WIDTH are taken)."""
    width = max(LEAST_WIDTH, width)
    names = [_name(bar.module, width // 2) for bar in bars]
    wide, told = max(map(len, names), default=0), max((len(bar.told) for bar in bars), default=0)
    longest = min(_LONGEST_BAR, max(4, width - wide - told - 4))
    most = _most(bars)
    lines = [*([title] if title else []), *textwrap.wrap(summary(bars), width), ""]
    for bar, name in zip(bars, names, strict=True):
        drawn = eighths(bar.rank / most * longest)
        lines.append(f"{name:<{wide}}  {drawn}{' ' if drawn else ''}{bar.told}")
    return "".join(cut(line, width) + "\n" for line in lines)


def eighths(length: float) -> str:
    """A bar of so many characters, to an eighth."""
    whole = round(length * 8)
    return "█" * (whole // 8) + ("▏▎▍▌▋▊▉"[whole % 8 - 1] if whole % 8 else "")


def _most(bars: Sequence[Bar]) -> int:
    return max((bar.rank for bar in bars), default=0) or 1


def _name(module: str, longest: int) -> str:
    return module if len(module) <= longest else "…" + module[-longest + 1 :]


def rank_svg(bars: Sequence[Bar], title: str = "") -> str:
    """A row a module: name, a bar as long as its rank, what it gets and its parameters."""
    names = [_name(bar.module, _LONGEST_NAME) for bar in bars]
    left = CHARACTER * max(map(len, names), default=0) + 14
    right = CHARACTER * max((len(bar.told) for bar in bars), default=0) + 14
    most, rows = _most(bars), zip(bars, names, strict=True)
    body = "".join(_row(bar, name, k * _ROW, left, _BAR * bar.rank / most) for k, (bar, name) in enumerate(rows))
    return page((left + _BAR + right, _ROW * len(bars)), title or "Ranks", summary(bars), body)


def _row(bar: Bar, name: str, y: float, left: float, length: float) -> str:
    middle, tall = y + _ROW / 2 + 4, _ROW - 8
    told = f'<tspan class="op">{clean(bar.label)}</tspan> {bar.params:,}' if bar.label else bar.told
    return (
        f"<g><title>{clean(bar.module)}: {clean(bar.told)}</title>"
        + words("shape name", (left - 12, middle), clean(name), end=True)
        + rect("track", (left, y + 4), (_BAR, tall), 3)
        + rect("tint", (left, y + 4), (length, tall), 3)
        + words("shape", (left + _BAR + 10, middle), told)
        + "</g>"
    )
