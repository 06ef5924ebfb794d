"""The mean over positions: (c, h, w) → (c,) of an image, (length, width) → (width,) of a sequence."""

from __future__ import annotations

from archrank.grammar.signatures import Op, Value, elementwise


def infer(value: Value) -> Value | None:
    """None where there are no positions left."""
    if len(value.shape) == 3:
        return Value((value.shape[0],))
    return Value((value.shape[1],)) if len(value.shape) == 2 else None


OP = Op(name="mean", infer=infer, costs=elementwise("elementwise"))
