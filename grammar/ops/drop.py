"""A layer left out: its input goes on."""

from __future__ import annotations

from archrank.grammar.signatures import Op, same

OP = Op(name="drop", infer=same, view=True)
