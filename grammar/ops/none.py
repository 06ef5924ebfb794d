"""A module left alone: no weights, no work."""

from __future__ import annotations

from archrank.grammar.signatures import AdapterOp


def nothing(out_features: int, in_features: int) -> int:
    """0."""
    return 0


OP = AdapterOp("none", 0, nothing, nothing)
