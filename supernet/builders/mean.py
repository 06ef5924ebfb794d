"""The mean over positions."""

from __future__ import annotations

from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


class Mean(nn.Module):
    """Over the height and width of images, or the length of sequences."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c, h, w) → (batch, c); (batch, length, width) → (batch, width)."""
        return x.mean(self.axes)


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """No parameters."""
    return Mean((2, 3) if len(inputs[0]) == 3 else (1,))
