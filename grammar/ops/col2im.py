"""Rows back to an image: (h·w, d) → (d, h, w), for the (h, w) of the last `im2col`."""

from __future__ import annotations

from archrank.grammar.signatures import Op, Value, elementwise


def infer(value: Value) -> Value | None:
    """None where the rows are not those of an image."""
    if value.grid is None or len(value.shape) != 2 or value.grid[0] * value.grid[1] != value.shape[0]:
        return None
    return Value((value.shape[1], *value.grid))


def inverse(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """(d, h, w) → (h·w, d); whether the grid fits is asked when the shape is reached."""
    return (shape[1] * shape[2], shape[0]) if len(shape) == 3 else None


OP = Op(name="col2im", infer=infer, costs=elementwise("copy"), inverse=inverse)
