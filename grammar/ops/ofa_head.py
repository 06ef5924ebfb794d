"""OFA-MobileNetV3's end: 1×1 convolution to six times the width, mean over the image, 1×1 convolution to 1,280
channels without normalisation, linear layer; ofa_head1000: the classes.
"""

from __future__ import annotations

from archrank.grammar._convolutions import Conv
from archrank.grammar.signatures import Op, Shape, Value
from archrank.grammar.workload import OpCost

FEATURES = 1280


def convs(shape: Shape) -> tuple[Conv, Conv]:
    """Expansion, and the features after pooling."""
    return Conv(shape[0], 6 * shape[0], shape[1], shape[2], 1), Conv(6 * shape[0], FEATURES, 1, 1, 1, norm=False)


def infer(value: Value, classes: int) -> Value | None:
    """(c, h, w) → (classes,)."""
    return Value((classes,)) if len(value.shape) == 3 else None


def params(shape: Shape, classes: int) -> int:
    """Of the two convolutions, the normalisation and the linear layer with bias."""
    return sum(conv.params for conv in convs(shape)) + (FEATURES + 1) * classes


def flops(shape: Shape, classes: int) -> int:
    """Of the two convolutions and the linear layer."""
    return sum(conv.flops for conv in convs(shape)) + 2 * FEATURES * classes


def costs(shape: Shape, batch: int, classes: int) -> tuple[OpCost, ...]:
    """In the order in which they run."""
    expand, features = convs(shape)
    pooled = OpCost.of("elementwise", {"m": batch * expand.c_out * shape[1] * shape[2]})
    last = OpCost.of("linear", {"m": batch, "n": classes, "k": FEATURES})
    return (*expand.costs(batch, "silu"), pooled, *features.costs(batch, "silu"), last)


OP = Op(name="ofa_head", arguments=1, infer=infer, params=params, flops=flops, costs=costs)
