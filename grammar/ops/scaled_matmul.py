"""The matrix product of two values divided by √k, k the inner axis: attention's scores."""

from __future__ import annotations

from archrank.grammar.ops.matmul import costs as product
from archrank.grammar.ops.matmul import flops, infer
from archrank.grammar.signatures import Join, Shape, rows
from archrank.grammar.workload import OpCost


def costs(shapes: tuple[Shape, ...], batch: int) -> tuple[OpCost, ...]:
    """The product and its scaling."""
    written = batch * rows(shapes[0]) * shapes[1][-1]
    return (*product(shapes, batch), OpCost.of("elementwise", {"m": written}))


OP = Join(name="scaled_matmul", infer=infer, flops=flops, costs=costs)
