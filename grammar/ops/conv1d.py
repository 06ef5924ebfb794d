"""Convolution along a sequence, padded to its length: (l, in) → (l, width); arguments kernel, width; with bias."""

from __future__ import annotations

from archrank.grammar.signatures import Op, Shape, Value
from archrank.grammar.workload import OpCost


def infer(value: Value, kernel: int, width: int) -> Value | None:
    """None where the input is no sequence, or kernel or width is 0."""
    return Value((value.shape[0], width), value.grid) if len(value.shape) == 2 and kernel and width else None


def params(shape: Shape, kernel: int, width: int) -> int:
    """Kernel · in · width + width."""
    return (kernel * shape[1] + 1) * width


def flops(shape: Shape, kernel: int, width: int) -> int:
    """2 · length · kernel · in · width."""
    return 2 * shape[0] * kernel * shape[1] * width


def costs(shape: Shape, batch: int, kernel: int, width: int) -> tuple[OpCost, ...]:
    """As the matrix product that it is."""
    return (OpCost.of("linear", {"m": batch * shape[0], "n": width, "k": kernel * shape[1]}),)


OP = Op(name="conv1d", arguments=2, infer=infer, params=params, flops=flops, costs=costs)
