"""NAS-Bench-201's ReLU, convolution without bias, batch normalisation; nor_conv1, nor_conv3: the kernel."""

from __future__ import annotations

from archrank.grammar._convolutions import Conv
from archrank.grammar.signatures import Op, Shape, Value, elements
from archrank.grammar.workload import OpCost


def conv(shape: Shape, kernel: int) -> Conv:
    """The convolution at a shape: width and size stay."""
    return Conv(shape[0], shape[0], shape[1], shape[2], kernel)


def infer(value: Value, kernel: int) -> Value | None:
    """The input's shape; None where it is no image or the kernel is even."""
    return value if len(value.shape) == 3 and kernel % 2 else None


def params(shape: Shape, kernel: int) -> int:
    """c² k² + 2c."""
    return conv(shape, kernel).params


def flops(shape: Shape, kernel: int) -> int:
    """2 c² k² h w."""
    return conv(shape, kernel).flops


def costs(shape: Shape, batch: int, kernel: int) -> tuple[OpCost, ...]:
    """ReLU, convolution, normalisation."""
    return (OpCost.of("relu", {"m": batch * elements(shape)}), *conv(shape, kernel).costs(batch))


OP = Op(name="nor_conv", arguments=1, infer=infer, params=params, flops=flops, costs=costs)
