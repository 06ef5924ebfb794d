"""y = x Wᵀ + b over the last axis; W (width, in), b (width)."""

from __future__ import annotations

from archrank.grammar.signatures import Op, Shape, Value, rows
from archrank.grammar.workload import OpCost


def infer(value: Value, width: int) -> Value | None:
    """(…, in) → (…, width); None where the width is 0."""
    return Value((*value.shape[:-1], width), value.grid) if width > 0 else None


def params(shape: Shape, width: int) -> int:
    """In · width + width."""
    return (shape[-1] + 1) * width


def flops(shape: Shape, width: int) -> int:
    """2 · rows · in · width."""
    return 2 * rows(shape) * shape[-1] * width


def costs(shape: Shape, batch: int, width: int) -> tuple[OpCost, ...]:
    """One matrix product over all rows."""
    return (OpCost.of("linear", {"m": batch * rows(shape), "n": width, "k": shape[-1]}),)


OP = Op(name="linear", arguments=1, infer=infer, params=params, flops=flops, costs=costs)
