"""The parts one after the other."""

from __future__ import annotations

from archrank.grammar.signatures import Step, Structure, Wiring


def wiring(parts: int) -> Wiring:
    """Part i reads register i and writes the next."""
    return Wiring(tuple(Step(i, (i,), (i + 1,)) for i in range(parts)), parts + 1)


OP = Structure(name="seq", wiring=wiring, form="chain")
