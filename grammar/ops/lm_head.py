"""Layer normalisation and a linear layer without bias to the vocabulary: lm_head50254."""

from __future__ import annotations

from archrank.grammar.signatures import Op, Shape, Value
from archrank.grammar.workload import OpCost


def infer(value: Value, vocabulary: int) -> Value | None:
    """(length, width) → (length, vocabulary)."""
    return Value((value.shape[0], vocabulary)) if len(value.shape) == 2 else None


def params(shape: Shape, vocabulary: int) -> int:
    """2 · width + width · vocabulary."""
    return shape[1] * (vocabulary + 2)


def flops(shape: Shape, vocabulary: int) -> int:
    """2 · length · width · vocabulary."""
    return 2 * shape[0] * shape[1] * vocabulary


def costs(shape: Shape, batch: int, vocabulary: int) -> tuple[OpCost, ...]:
    """Normalisation and the product."""
    rows = batch * shape[0]
    return (
        OpCost.of("layer_norm", {"m": rows, "n": shape[1]}),
        OpCost.of("linear", {"m": rows, "n": vocabulary, "k": shape[1]}),
    )


OP = Op(name="lm_head", arguments=1, infer=infer, params=params, flops=flops, costs=costs)
