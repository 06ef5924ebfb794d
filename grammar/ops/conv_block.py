"""Convolution without bias, batch normalisation, ReLU; conv_block1, conv_block2: the stride. Then kernel and width."""

from __future__ import annotations

from archrank.grammar._convolutions import Conv
from archrank.grammar.signatures import Op, Shape, Value
from archrank.grammar.workload import OpCost


def conv(shape: Shape, stride: int, kernel: int, width: int) -> Conv:
    """The convolution at a shape."""
    return Conv(shape[0], width, shape[1], shape[2], kernel, stride)


def infer(value: Value, stride: int, kernel: int, width: int) -> Value | None:
    """(c, h, w) → (width, ⌈h / stride⌉, ⌈w / stride⌉); None where it is no image or the kernel is even."""
    if len(value.shape) != 3 or not kernel % 2 or stride < 1 or width < 1:
        return None
    return Value((width, *conv(value.shape, stride, kernel, width).out))


def params(shape: Shape, stride: int, kernel: int, width: int) -> int:
    """Weights k² c · width, and 2 width of the normalisation."""
    return conv(shape, stride, kernel, width).params


def flops(shape: Shape, stride: int, kernel: int, width: int) -> int:
    """2 c · width · k² h' w'."""
    return conv(shape, stride, kernel, width).flops


def costs(shape: Shape, batch: int, stride: int, kernel: int, width: int) -> tuple[OpCost, ...]:
    """Convolution, normalisation, ReLU."""
    return conv(shape, stride, kernel, width).costs(batch, "relu")


OP = Op(name="conv_block", arguments=3, infer=infer, params=params, flops=flops, costs=costs)
