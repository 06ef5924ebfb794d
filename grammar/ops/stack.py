"""Layers one after the other, as many as the number says: stack10."""

from __future__ import annotations

from archrank.grammar.ops.seq import wiring as chain
from archrank.grammar.signatures import Structure, Wiring


def wiring(parts: int, layers: int) -> Wiring:
    """One part after the other; ValueError where there are not as many as the number says."""
    if parts != layers:
        raise ValueError(f"stack{layers} has {parts} parts; the number says how many there are")
    return chain(parts)


OP = Structure(name="stack", arguments=1, wiring=wiring, form="chain")
