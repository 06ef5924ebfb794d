"""Softmax over the last axis."""

from __future__ import annotations

from archrank.grammar.signatures import Op, elementwise, same, same_shape

OP = Op(name="softmax", infer=same, costs=elementwise("softmax"), inverse=same_shape)
