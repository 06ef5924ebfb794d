"""The mean of each square window, stride 1, size kept, padding not counted; avg_pool3: the window."""

from __future__ import annotations

from archrank.grammar.signatures import Op, Value, elementwise


def infer(value: Value, kernel: int) -> Value | None:
    """The input's shape; None where it is no image or the window is even."""
    return value if len(value.shape) == 3 and kernel % 2 else None


OP = Op(name="avg_pool", arguments=1, infer=infer, costs=elementwise("elementwise"))
