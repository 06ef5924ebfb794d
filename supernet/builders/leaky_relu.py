"""torch.nn.LeakyReLU."""

from __future__ import annotations

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """Slope 0.01."""
    return nn.LeakyReLU(0.01)
