"""A learnable encoding of the input's own shape is added: y = x + E."""

from __future__ import annotations

from archrank.grammar.signatures import Op, elements, elementwise, same, same_shape

OP = Op(name="pos_enc", infer=same, params=elements, costs=elementwise("add"), inverse=same_shape)
