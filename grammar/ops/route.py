"""A way in, a module, a way out, one after the other: einspace routing."""

from __future__ import annotations

from archrank.grammar.ops.seq import wiring
from archrank.grammar.signatures import Structure

OP = Structure(name="route", wiring=wiring, form="chain")
