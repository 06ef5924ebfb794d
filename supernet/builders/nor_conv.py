"""ReLU, convolution, batch normalisation."""

from __future__ import annotations

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape
from archrank.supernet.builders._convolution import conv_norm


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """Width and size stay."""
    channels = inputs[0][0]
    return nn.Sequential(nn.ReLU(), conv_norm(channels, channels, int(node.arguments[0])))
