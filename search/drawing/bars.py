"""The ranks of a base's modules as bars: SVG and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from archrank.search.drawing.lanes import LEAST_WIDTH, cut
from archrank.search.drawing.svg import page

_ROW, _BAR, _CHARACTER = 22.0, 320.0, 7.3
_LONGEST_NAME = 48


@dataclass(frozen=True, slots=True)
class Bar:
    """One module: `label` what it gets (`lora(8)`), "" where it is left alone; `rank`; `params` of its adapter."""

    module: str
    label: str
    rank: int
    params: int


def summary(bars: Sequence[Bar]) -> str:
    """`14 of 18 modules adapted · ranks 1–16, sum 62 · 20,480 adapter parameters`."""
    ranks = [bar.rank for bar in bars if bar.params]
    params = f"{sum(bar.params for bar in bars):,} adapter parameters"
    if not ranks:
        return f"none of {len(bars)} modules adapted · {params}"
    span = f"rank {ranks[0]}" if len(set(ranks)) == 1 else f"ranks {min(ranks)}–{max(ranks)}"
    return f"{len(ranks)} of {len(bars)} modules adapted · {span}, sum {sum(ranks)} · {params}"


def rank_ascii(bars: Sequence[Bar], title: str = "", width: int = 100) -> str:
    """A line a module, its bar as long as its rank; at most `width` characters wide."""
    width = max(LEAST_WIDTH, width)
    names = [_name(bar.module, width // 3) for bar in bars]
    wide, most = max(map(len, names), default=0), max((bar.rank for bar in bars), default=0) or 1
    told = [f"{bar.label or '·'}" + (f"  {bar.params:,}" if bar.params else "") for bar in bars]
    room = max(4, width - wide - max(map(len, told), default=0) - 4)
    lines = [*([title] if title else []), summary(bars), ""]
    for bar, name, text in zip(bars, names, told, strict=True):
        lines.append(f"{name:<{wide}}  {_blocks(bar.rank / most * min(room, 48))}{' ' if bar.rank else ''}{text}")
    return "".join(cut(line, width) + "\n" for line in lines)


def _blocks(length: float) -> str:
    """A bar in eighths of a character."""
    whole, eighths = divmod(round(length * 8), 8)
    return "█" * whole + (" ▏▎▍▌▋▊▉"[eighths] if eighths else "")


def _name(module: str, longest: int) -> str:
    return module if len(module) <= longest else "…" + module[-longest + 1 :]


def rank_svg(bars: Sequence[Bar], title: str = "") -> str:
    """A row a module: name, a bar as long as its rank, what it gets and its parameters."""
    names = [_name(bar.module, _LONGEST_NAME) for bar in bars]
    left = _CHARACTER * max(map(len, names), default=0) + 14
    most = max((bar.rank for bar in bars), default=0) or 1
    right = 14 + _CHARACTER * max((len(_told(bar)) for bar in bars), default=0)
    body = "".join(_row(bar, name, k * _ROW, left, _BAR * bar.rank / most) for k, (bar, name) in enumerate(zip(bars, names, strict=True)))
    return page((left + _BAR + right, _ROW * len(bars)), title or "Ranks", summary(bars), body)


def _told(bar: Bar) -> str:
    return f"{bar.label}  {bar.params:,}" if bar.params else "left alone"


def _row(bar: Bar, name: str, y: float, left: float, length: float) -> str:
    middle = y + _ROW / 2 + 4
    text = f'<tspan class="op">{escape(bar.label)}</tspan> {bar.params:,}' if bar.params else "left alone"
    return (
        f"<g><title>{escape(bar.module)}: {escape(_told(bar))}</title>"
        f'<text class="shape name" text-anchor="end" x="{left - 12:.1f}" y="{middle:.1f}">{escape(name)}</text>'
        f'<rect class="track" x="{left:.1f}" y="{y + 4:.1f}" width="{_BAR}" height="{_ROW - 8}" rx="3"/>'
        f'<rect class="tint" x="{left:.1f}" y="{y + 4:.1f}" width="{length:.1f}" height="{_ROW - 8}" rx="3"/>'
        f'<text class="shape" x="{left + _BAR + 10:.1f}" y="{middle:.1f}">{text}</text></g>'
    )
