"""Axes in another order, counted from 1: `permute(213)` exchanges channels and height."""

from __future__ import annotations

from functools import cache

from archrank.grammar.signatures import Op, Shape, Value, elementwise


@cache
def order(digits: int) -> tuple[int, ...]:
    """213 → (1, 0, 2): the input axis that stands at each place of the output."""
    return tuple(int(digit) - 1 for digit in str(digits))


def infer(value: Value, digits: int) -> Value | None:
    """The permuted shape; None where there are not as many axes."""
    axes = order(digits)
    if sorted(axes) != list(range(len(value.shape))):
        return None
    return Value(tuple(value.shape[axis] for axis in axes), value.grid)


def inverse(shape: Shape, digits: int) -> Shape | None:
    """The shape before."""
    axes = order(digits)
    return tuple(shape[axes.index(i)] for i in range(len(axes))) if len(axes) == len(shape) else None


OP = Op(name="permute", arguments=1, infer=infer, costs=elementwise("copy"), inverse=inverse)
