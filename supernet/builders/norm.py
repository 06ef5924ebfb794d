"""Batch normalisation of images, layer normalisation of sequences."""

from __future__ import annotations

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """With scale and shift."""
    shape = inputs[0]
    return nn.BatchNorm2d(shape[0]) if len(shape) == 3 else nn.LayerNorm(shape[-1])
