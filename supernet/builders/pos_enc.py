"""A learnable encoding added to the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


class PositionEncoding(nn.Module):
    """y = x + E, E (1, *shape) drawn from N(0, 0.02²)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.encoding = nn.Parameter(0.02 * torch.randn(1, *shape))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *shape) → the same."""
        return x + self.encoding


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """One weight an element."""
    return PositionEncoding(inputs[0])
