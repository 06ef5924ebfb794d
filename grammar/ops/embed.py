"""Token numbers to rows of a table: (length,) → (length, width); arguments vocabulary, width."""

from __future__ import annotations

from archrank.grammar.signatures import Op, Shape, Value
from archrank.grammar.workload import OpCost


def infer(value: Value, vocabulary: int, width: int) -> Value | None:
    """None where the input is not one row of numbers."""
    return Value((value.shape[0], width)) if len(value.shape) == 1 else None


def params(shape: Shape, vocabulary: int, width: int) -> int:
    """Vocabulary · width."""
    return vocabulary * width


def costs(shape: Shape, batch: int, vocabulary: int, width: int) -> tuple[OpCost, ...]:
    """A row gathered a token."""
    return (OpCost.of("embedding", {"m": batch * shape[0], "n": width}),)


OP = Op(name="embed", arguments=2, infer=infer, params=params, costs=costs)
