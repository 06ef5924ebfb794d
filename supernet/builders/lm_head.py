"""Normalisation and the product with the vocabulary."""

from __future__ import annotations

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """Without bias, not tied to the embedding."""
    width = inputs[0][1]
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, node.shape[1], bias=False))
