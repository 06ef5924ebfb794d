"""The sum of values of one shape."""

from __future__ import annotations

from archrank.grammar.signatures import Join, Shape, Value, rows
from archrank.grammar.workload import OpCost


def infer(values: tuple[Value, ...]) -> Value | None:
    """None where the shapes differ."""
    return values[0] if all(value.shape == values[0].shape for value in values) else None


def costs(shapes: tuple[Shape, ...], batch: int) -> tuple[OpCost, ...]:
    """One addition fewer than there are values."""
    size = {"m": batch * rows(shapes[0]), "n": shapes[0][-1]}
    return (OpCost.of("add", size, count=len(shapes) - 1),) if len(shapes) > 1 else ()


def parts(shape: Shape, ways: int) -> Shape:
    """The output's own."""
    return shape


OP = Join(name="add", infer=infer, costs=costs, parts=parts, commutative=True)
