"""The mean of values of one shape: the logits of an ensemble."""

from __future__ import annotations

from archrank.grammar.ops.add import infer, parts
from archrank.grammar.signatures import Join, Shape, rows
from archrank.grammar.workload import OpCost


def costs(shapes: tuple[Shape, ...], batch: int) -> tuple[OpCost, ...]:
    """As many passes as there are values: the additions and one division."""
    return (OpCost.of("add", {"m": batch * rows(shapes[0]), "n": shapes[0][-1]}, count=len(shapes)),)


OP = Join(name="average", infer=infer, costs=costs, parts=parts, commutative=True)
