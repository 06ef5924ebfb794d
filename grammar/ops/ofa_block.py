"""An inverted residual block of OFA-MobileNetV3 (Cai et al. 2020, arXiv 1908.09791): ofa_block24, …, the stage's width.

1×1 expansion, depthwise k×k, squeeze-and-excitation in the stages that have it, 1×1 projection, each with batch
normalisation. The first block of a stage takes the stage's stride; where input and output agree they are added.
Arguments width, kernel, expansion ratio.
"""

from __future__ import annotations

from typing import NamedTuple

from archrank.grammar._convolutions import Conv
from archrank.grammar.signatures import Op, Shape, Value
from archrank.grammar.workload import OpCost


class Stage(NamedTuple):
    """What all blocks of a stage share."""

    stride: int
    activation: str
    squeeze: bool


STAGES = {
    24: Stage(2, "relu", False),
    40: Stage(2, "relu", True),
    80: Stage(2, "silu", False),
    112: Stage(1, "silu", True),
    160: Stage(2, "silu", True),
}
"""By width, the input's own channels decide whether a block is its stage's first; "silu" prices h-swish."""


def squeezed(channels: int) -> int:
    """Channels inside squeeze-and-excitation: a quarter, to the nearest multiple of 8, not below 8."""
    quarter = channels // 4
    near = max(8, (quarter + 4) // 8 * 8)
    return near + 8 if near < 0.9 * quarter else near


def convs(shape: Shape, width: int, kernel: int, expand: int) -> tuple[Conv, Conv, Conv]:
    """Expansion, depthwise, projection."""
    c, high, wide = shape
    inner = c * expand
    depth = Conv(inner, inner, high, wide, kernel, STAGES[width].stride if c != width else 1, inner)
    return Conv(c, inner, high, wide, 1), depth, Conv(inner, width, *depth.out, 1)


def infer(value: Value, width: int, kernel: int, expand: int) -> Value | None:
    """None where the input is no image, the kernel even or the width no stage's."""
    if len(value.shape) != 3 or kernel % 2 == 0 or width not in STAGES:
        return None
    return Value((width, *convs(value.shape, width, kernel, expand)[1].out))


def params(shape: Shape, width: int, kernel: int, expand: int) -> int:
    """Of the convolutions, their normalisations, and 2 i s + i + s of squeeze-and-excitation (inner i, squeezed s)."""
    inner = shape[0] * expand
    small = squeezed(inner)
    extra = 2 * inner * small + inner + small if STAGES[width].squeeze else 0
    return sum(conv.params for conv in convs(shape, width, kernel, expand)) + extra


def flops(shape: Shape, width: int, kernel: int, expand: int) -> int:
    """Of the convolutions, and 4 i s of squeeze-and-excitation."""
    inner = shape[0] * expand
    extra = 4 * inner * squeezed(inner) if STAGES[width].squeeze else 0
    return sum(conv.flops for conv in convs(shape, width, kernel, expand)) + extra


def costs(shape: Shape, batch: int, width: int, kernel: int, expand: int) -> tuple[OpCost, ...]:
    """In the order in which they run."""
    stage, (up, depth, down) = STAGES[width], convs(shape, width, kernel, expand)
    found = [*up.costs(batch, stage.activation), *depth.costs(batch, stage.activation)]
    if stage.squeeze:
        small, size = squeezed(up.c_out), batch * up.c_out * depth.out[0] * depth.out[1]
        found.append(OpCost.of("elementwise", {"m": size}))
        found.append(OpCost.of("linear", {"m": batch, "n": small, "k": up.c_out}))
        found.append(OpCost.of("linear", {"m": batch, "n": up.c_out, "k": small}))
        found.append(OpCost.of("mul", {"m": size}))
    found.extend(down.costs(batch))
    if shape[0] == width:
        found.append(OpCost.of("add", {"m": batch * width * down.out[0] * down.out[1]}))
    return tuple(found)


OP = Op(name="ofa_block", arguments=3, infer=infer, params=params, flops=flops, costs=costs)
