"""Nothing of the input: zeros of its shape (NAS-Bench-201's `none`)."""

from __future__ import annotations

from archrank.grammar.signatures import Op, elementwise, same

OP = Op(name="zero", infer=same, costs=elementwise("elementwise"))
