"""Convolution, batch normalisation, ReLU."""

from __future__ import annotations

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape
from archrank.supernet.builders._convolution import conv_norm


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """(batch, c, h, w) → (batch, width, ⌈h / stride⌉, ⌈w / stride⌉)."""
    stride, kernel, width = (int(n) for n in node.arguments)
    return conv_norm(inputs[0][0], width, kernel, stride, activation=nn.ReLU())
