"""One axis (counted from 1) cut into equal parts, one a branch."""

from __future__ import annotations

from archrank.grammar.signatures import Split, Value


def infer(value: Value, ways: int, axis: int) -> Value | None:
    """None where there is no such axis, or its length is no multiple."""
    shape = value.shape
    if not 1 <= axis <= len(shape) or shape[axis - 1] % ways:
        return None
    return Value((*shape[: axis - 1], shape[axis - 1] // ways, *shape[axis:]), value.grid)


OP = Split(name="group", arguments=1, infer=infer)
