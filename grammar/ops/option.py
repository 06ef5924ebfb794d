"""One part alone: option1, option2, …; the number tells alternatives apart that do nothing but choose."""

from __future__ import annotations

from archrank.grammar.ops.seq import wiring as chain
from archrank.grammar.signatures import Structure, Wiring


def wiring(parts: int, number: int) -> Wiring:
    """The part; ValueError where there are several."""
    if parts != 1:
        raise ValueError(f"option{number} is one part alone, not {parts}")
    return chain(parts)


OP = Structure(name="option", arguments=1, wiring=wiring, form="chain")
