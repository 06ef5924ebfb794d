"""The matrix product of two values over their last two axes: (…, m, k) × (…, k, n) → (…, m, n)."""

from __future__ import annotations

from archrank.grammar.signatures import Join, Shape, Value, elements
from archrank.grammar.workload import OpCost


def infer(values: tuple[Value, ...]) -> Value | None:
    """None where there are not two values, or the inner axes differ."""
    if len(values) != 2:
        return None
    a, b = values[0].shape, values[1].shape
    if len(a) != len(b) or len(a) < 2 or a[:-2] != b[:-2] or a[-1] != b[-2]:
        return None
    return Value((*a[:-1], b[-1]), values[0].grid)


def flops(shapes: tuple[Shape, ...]) -> int:
    """2 · m · n · k for each of the leading axes."""
    return 2 * elements(shapes[0]) * shapes[1][-1]


def costs(shapes: tuple[Shape, ...], batch: int) -> tuple[OpCost, ...]:
    """One batched product."""
    a, b = shapes
    return (OpCost.of("bmm", {"b": batch * elements(a[:-2]), "m": a[-2], "n": b[-1], "k": a[-1]}),)


OP = Join(name="matmul", infer=infer, flops=flops, costs=costs)
