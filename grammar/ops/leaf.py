"""One part alone."""

from __future__ import annotations

from archrank.grammar.ops.seq import wiring
from archrank.grammar.signatures import Structure

OP = Structure(name="leaf", wiring=wiring, form="chain")
