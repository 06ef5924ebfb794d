"""The matrix product of two values divided by √k."""

from __future__ import annotations

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape
from archrank.supernet.builders.matmul import Product


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """Divides by the root of the inner axis."""
    return Product(inputs[0][-1] ** -0.5)
