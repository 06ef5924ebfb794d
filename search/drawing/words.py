"""Lines of text that stand at pictures and tables."""

from __future__ import annotations

from archrank.grammar.architecture import Architecture
from archrank.search.drawing.picture import shown_shape
from archrank.search.report.text import number


def facts(architecture: Architecture) -> str:
    """`3×64×64 → 64×64 · 12 ops · 12,345 parameters · 1.2 MFLOPs · largest activation 48 KiB`."""
    ops = len(architecture.ops)
    flops = number(architecture.flops)
    return " · ".join(
        (
            f"{shown_shape(architecture.input)} → {shown_shape(architecture.shape)}",
            f"{ops:,} op{'' if ops == 1 else 's'}",
            f"{architecture.params:,} parameters",
            f"{flops}{'' if flops[-1].isalpha() else ' '}FLOPs",
            f"largest activation {number(architecture.activation_bytes, 'bytes')}",
        )
    )
