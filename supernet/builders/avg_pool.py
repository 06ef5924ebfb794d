"""The mean of each window."""

from __future__ import annotations

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """Padding is not counted."""
    kernel = int(node.arguments[0])
    return nn.AvgPool2d(kernel, 1, kernel // 2, count_include_pad=False)
