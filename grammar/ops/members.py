"""The members of an ensemble without heads: the means over positions of what they give, side by side."""

from __future__ import annotations

from archrank.grammar.signatures import Join, Shape, Value, elements
from archrank.grammar.workload import OpCost


def features(shape: Shape) -> int | None:
    """Channels of an image, width of a sequence or of a vector; None of any other shape."""
    return {1: shape[0], 2: shape[-1], 3: shape[0]}.get(len(shape))


def infer(values: tuple[Value, ...]) -> Value | None:
    """(Σ features,): members may differ in shape."""
    widths = [features(value.shape) for value in values]
    return None if None in widths else Value((sum(width for width in widths if width is not None),))


def costs(shapes: tuple[Shape, ...], batch: int) -> tuple[OpCost, ...]:
    """A pass over everything that is read."""
    return (OpCost.of("elementwise", {"m": batch * sum(map(elements, shapes)), "n": 1}),)


OP = Join(name="members", infer=infer, costs=costs)
