"""NAS-Bench-201's stem."""

from __future__ import annotations

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape
from archrank.supernet.builders._convolution import conv_norm


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """3×3 convolution and batch normalisation."""
    return conv_norm(inputs[0][0], node.shape[0], 3)
