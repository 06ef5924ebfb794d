"""NAS-Bench-201's stem: 3×3 convolution without bias to 16 channels, batch normalisation."""

from __future__ import annotations

from archrank.grammar._convolutions import Conv
from archrank.grammar.signatures import Op, Shape, Value
from archrank.grammar.workload import OpCost


def conv(shape: Shape) -> Conv:
    """The convolution at an input."""
    return Conv(shape[0], 16, shape[1], shape[2], 3)


def infer(value: Value) -> Value | None:
    """(c, h, w) → (16, h, w)."""
    return Value((16, *value.shape[1:])) if len(value.shape) == 3 else None


def params(shape: Shape) -> int:
    """144 c + 32."""
    return conv(shape).params


def flops(shape: Shape) -> int:
    """2 · 144 c h w."""
    return conv(shape).flops


def costs(shape: Shape, batch: int) -> tuple[OpCost, ...]:
    """Convolution and normalisation."""
    return conv(shape).costs(batch)


OP = Op(name="nb201_stem", infer=infer, params=params, flops=flops, costs=costs)
