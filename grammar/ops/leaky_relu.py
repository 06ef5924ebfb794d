"""max(x, 0.01 x), element by element."""

from __future__ import annotations

from archrank.grammar.signatures import Op, elementwise, same, same_shape

OP = Op(name="leaky_relu", infer=same, costs=elementwise("relu"), inverse=same_shape)
