"""NAS-Bench-201's head."""

from __future__ import annotations

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """Batch normalisation, ReLU, mean, linear."""
    channels = inputs[0][0]
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), *pool, nn.Linear(channels, node.shape[0]))
