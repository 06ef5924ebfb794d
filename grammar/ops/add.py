"""The sum of values of one shape."""

from __future__ import annotations

from archrank.grammar.signatures import Join, Shape, Value, rows
from archrank.grammar.workload import OpCost


def infer(values: tuple[Value, ...]) -> Value | None:
    """None where the shapes differ. Rows of different grids have none, since the order of a sum means nothing."""
    first = values[0]
    if any(value.shape != first.shape for value in values):
        return None
    return first if all(value.grid == first.grid for value in values) else Value(first.shape)


def costs(shapes: tuple[Shape, ...], batch: int) -> tuple[OpCost, ...]:
    """One addition fewer than there are values."""
    size = {"m": batch * rows(shapes[0]), "n": shapes[0][-1]}
    return (OpCost.of("add", size, count=len(shapes) - 1),) if len(shapes) > 1 else ()


def parts(shape: Shape, ways: int) -> Shape:
    """The output's own."""
    return shape


OP = Join(name="add", infer=infer, costs=costs, parts=parts, commutative=True)
