"""Rows back to an image."""

from __future__ import annotations

from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


class Image(nn.Module):
    """Rows in the order of the positions."""

    def __init__(self, size: Shape) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(batch, h·w, d) → (batch, d, h, w)."""
        return x.transpose(1, 2).reshape(-1, *self.size)


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """No parameters."""
    return Image(node.shape)
