"""Values side by side along one axis (counted from 1), equal in the others."""

from __future__ import annotations

from archrank.grammar.signatures import Join, Shape, Value, elements
from archrank.grammar.workload import OpCost


def infer(values: tuple[Value, ...], axis: int) -> Value | None:
    """None where there is no such axis or another one differs."""
    first = values[0].shape
    if not 1 <= axis <= len(first):
        return None
    total = 0
    for value in values:
        shape = value.shape
        if len(shape) != len(first) or shape[: axis - 1] != first[: axis - 1] or shape[axis:] != first[axis:]:
            return None
        total += shape[axis - 1]
    return Value((*first[: axis - 1], total, *first[axis:]), values[0].grid)


def costs(shapes: tuple[Shape, ...], batch: int, axis: int) -> tuple[OpCost, ...]:
    """A copy of what is written."""
    return (OpCost.of("copy", {"m": batch * sum(map(elements, shapes))}),)


def parts(shape: Shape, ways: int, axis: int) -> Shape | None:
    """An equal part of the axis each."""
    if not 1 <= axis <= len(shape) or shape[axis - 1] % ways:
        return None
    return (*shape[: axis - 1], shape[axis - 1] // ways, *shape[axis:])


OP = Join(name="concat", arguments=1, infer=infer, costs=costs, parts=parts)
