"""One piece of an axis."""

from __future__ import annotations

from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


class Piece(nn.Module):
    """A view."""

    def __init__(self, axis: int, start: int, length: int) -> None:
        super().__init__()
        self.axis, self.start, self.length = axis, start, length

    def forward(self, x: Tensor) -> Tensor:
        """Length elements of the axis (counted from 1 behind the batch), from start."""
        return x.narrow(self.axis, self.start, self.length)


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """Arguments axis, number of the piece, pieces."""
    axis, index, _ = (int(n) for n in node.arguments)
    length = node.shape[axis - 1]
    return Piece(axis, index * length, length)
