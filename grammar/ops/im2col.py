"""Square windows of an image as rows: (c, h, w) → (h'·w', c·k²), what a convolution multiplies.

Arguments kernel k, stride s, padding p; h' = ⌊(h + 2p − k) / s⌋ + 1. The grid (h', w') stays with the value.
"""

from __future__ import annotations

from archrank.grammar.signatures import Op, Shape, Value, elements
from archrank.grammar.workload import OpCost


def infer(value: Value, kernel: int, stride: int, padding: int) -> Value | None:
    """None where the input is no image or the window is larger than it."""
    if len(value.shape) != 3 or kernel < 1 or stride < 1 or padding < 0:
        return None
    channels, height, width = value.shape
    if min(height, width) + 2 * padding < kernel:
        return None
    high, wide = ((n + 2 * padding - kernel) // stride + 1 for n in (height, width))
    return Value((high * wide, channels * kernel * kernel), (high, wide))


def costs(shape: Shape, batch: int, kernel: int, stride: int, padding: int) -> tuple[OpCost, ...]:
    """A copy of what is written."""
    out = infer(Value(shape), kernel, stride, padding)
    return () if out is None else (OpCost.of("copy", {"m": batch * elements(out.shape)}),)


OP = Op(name="im2col", arguments=3, infer=infer, costs=costs)
