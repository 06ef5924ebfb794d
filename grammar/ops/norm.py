"""Batch normalisation of an image's channels, layer normalisation of a sequence's last axis; scale and shift."""

from __future__ import annotations

from archrank.grammar.signatures import Op, Shape, elements, same, same_shape
from archrank.grammar.workload import OpCost


def params(shape: Shape) -> int:
    """2 · channels of an image, 2 · width of a sequence."""
    return 2 * (shape[0] if len(shape) == 3 else shape[-1])


def costs(shape: Shape, batch: int) -> tuple[OpCost, ...]:
    """One pass over the elements."""
    width = shape[0] if len(shape) == 3 else shape[-1]
    return (OpCost.of("layer_norm", {"m": batch * elements(shape) // width, "n": width}),)


OP = Op(name="norm", infer=same, params=params, costs=costs, inverse=same_shape)
