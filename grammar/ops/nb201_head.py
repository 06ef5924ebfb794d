"""NAS-Bench-201's head: batch normalisation, ReLU, mean over the image, linear layer; nb201_head10: the classes."""

from __future__ import annotations

from archrank.grammar.signatures import Op, Shape, Value, elements
from archrank.grammar.workload import OpCost


def infer(value: Value, classes: int) -> Value | None:
    """(c, h, w) → (classes,)."""
    return Value((classes,)) if len(value.shape) == 3 else None


def params(shape: Shape, classes: int) -> int:
    """2c + (c + 1) classes."""
    return 2 * shape[0] + (shape[0] + 1) * classes


def flops(shape: Shape, classes: int) -> int:
    """2 c classes."""
    return 2 * shape[0] * classes


def costs(shape: Shape, batch: int, classes: int) -> tuple[OpCost, ...]:
    """Normalisation, ReLU, pooling, the linear layer."""
    size = batch * elements(shape)
    return (
        OpCost.of("layer_norm", {"m": size // shape[0], "n": shape[0]}),
        OpCost.of("relu", {"m": size}),
        OpCost.of("elementwise", {"m": size}),
        OpCost.of("linear", {"m": batch, "n": classes, "k": shape[0]}),
    )


OP = Op(name="nb201_head", arguments=1, infer=infer, params=params, flops=flops, costs=costs)
