"""NAS-Bench-201's reduction: a residual block of stride 2 that doubles the channels.

Two of ReLU, 3×3 convolution, batch normalisation (the first with stride 2), beside 2×2 mean pooling and a 1×1
convolution without bias.
"""

from __future__ import annotations

from archrank.grammar._convolutions import Conv
from archrank.grammar.signatures import Op, Shape, Value, elements
from archrank.grammar.workload import OpCost


def convs(shape: Shape) -> tuple[Conv, Conv, Conv]:
    """First, second, shortcut."""
    c, high, wide = shape
    first = Conv(c, 2 * c, high, wide, 3, 2)
    return first, Conv(2 * c, 2 * c, *first.out, 3), Conv(c, 2 * c, high // 2, wide // 2, 1, norm=False)


def infer(value: Value) -> Value | None:
    """(c, h, w) → (2c, h/2, w/2); None where the size is odd."""
    shape = value.shape
    if len(shape) != 3 or shape[1] % 2 or shape[2] % 2:
        return None
    return Value((2 * shape[0], shape[1] // 2, shape[2] // 2))


def params(shape: Shape) -> int:
    """18 c² + 36 c² + 2 c² + 8 c."""
    return sum(conv.params for conv in convs(shape))


def flops(shape: Shape) -> int:
    """Of the three convolutions."""
    return sum(conv.flops for conv in convs(shape))


def costs(shape: Shape, batch: int) -> tuple[OpCost, ...]:
    """In the order in which they run."""
    first, second, shortcut = convs(shape)
    size, half = batch * elements(shape), batch * second.c_out * second.high * second.wide
    before = (OpCost.of("relu", {"m": size}), *first.costs(batch), OpCost.of("relu", {"m": half}))
    aside = (OpCost.of("elementwise", {"m": size}), *shortcut.costs(batch))
    return (*before, *second.costs(batch), *aside, OpCost.of("add", {"m": half}))


OP = Op(name="nb201_reduction", infer=infer, params=params, flops=flops, costs=costs)
