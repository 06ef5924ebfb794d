"""OFA-MobileNetV3's beginning: 3×3 convolution of stride 2 to 16 channels with h-swish, and a depthwise-separable
block of 16 channels with ReLU.
"""

from __future__ import annotations

from archrank.grammar._convolutions import Conv
from archrank.grammar.signatures import Op, Shape, Value
from archrank.grammar.workload import OpCost


def convs(shape: Shape) -> tuple[Conv, Conv, Conv]:
    """First, depthwise, pointwise; each with batch normalisation."""
    first = Conv(shape[0], 16, shape[1], shape[2], 3, 2)
    return first, Conv(16, 16, *first.out, 3, groups=16), Conv(16, 16, *first.out, 1)


def infer(value: Value) -> Value | None:
    """(c, h, w) → (16, ⌈h/2⌉, ⌈w/2⌉)."""
    return Value((16, *convs(value.shape)[0].out)) if len(value.shape) == 3 else None


def params(shape: Shape) -> int:
    """Of the three convolutions and their normalisations."""
    return sum(conv.params for conv in convs(shape))


def flops(shape: Shape) -> int:
    """Of the three convolutions."""
    return sum(conv.flops for conv in convs(shape))


def costs(shape: Shape, batch: int) -> tuple[OpCost, ...]:
    """In the order in which they run."""
    first, depth, point = convs(shape)
    after = OpCost.of("add", {"m": batch * 16 * first.out[0] * first.out[1]})
    return (*first.costs(batch, "silu"), *depth.costs(batch, "relu"), *point.costs(batch), after)


OP = Op(name="ofa_stem", infer=infer, params=params, flops=flops, costs=costs)
