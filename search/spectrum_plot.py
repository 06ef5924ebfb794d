"""The spectra of an adapter as one SVG: a line a module, a cell a component, what is kept inside a frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["spectrum_svg"]

CELL, ROW, LETTER, TOP = 14, 16, 6.6, 46
DECADES = 4  # of σ / σ_max of the whole adapter that the tint spans


def spectrum_svg(spectra: Mapping[str, Sequence[float]], ranks: Mapping[str, int]) -> str:
    """Tint: log10 of σ against the adapter's largest; a frame around the components that are kept."""
    top = max((float(s[0]) for s in spectra.values() if len(s)), default=0.0) or 1.0
    longest = max((len(s) for s in spectra.values()), default=1)
    left = LETTER * max((len(name) for name in spectra), default=1) + 56
    width, height = left + CELL * longest + 16, TOP + ROW * len(spectra) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="ui-monospace, monospace" font-size="11">',
        "<style>text{fill:#222}rect.c{fill:#2563eb}rect.k{fill:none;stroke:#d9480f;stroke-width:1.5}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}rect.c{fill:#7aa2ff}rect.k{stroke:#ff922b}}</style>",
        f'<text x="8" y="16">singular values, tint log10 σ over {DECADES} decades from {top:.3g}</text>',
        '<text x="8" y="32">framed: kept; the number is the rank</text>',
    ]
    for row, (name, spectrum) in enumerate(spectra.items()):
        y = TOP + ROW * row
        parts.append(f'<text x="8" y="{y + 11}">{escape(name)}</text>')
        parts.append(f'<text x="{left - 8:.0f}" y="{y + 11}" text-anchor="end">{ranks.get(name, 0)}</text>')
        for j, sigma in enumerate(spectrum):
            tint = max(0.0, 1 + math.log10(sigma / top) / DECADES) if sigma > 0 else 0.0
            x = left + CELL * j
            parts.append(
                f'<rect class="c" x="{x:.0f}" y="{y}" width="{CELL - 2}" height="{ROW - 4}" opacity="{tint:.3f}">'
                f"<title>{escape(name)} component {j + 1}: σ = {sigma:.4g}</title></rect>"
            )
        if kept := ranks.get(name, 0):
            parts.append(f'<rect class="k" x="{left - 1:.0f}" y="{y - 1}" width="{CELL * kept}" height="{ROW - 2}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
