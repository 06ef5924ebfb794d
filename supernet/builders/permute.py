"""Axes in another order."""

from __future__ import annotations

from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.ops.permute import order
from archrank.grammar.signatures import Shape


class Permute(nn.Module):
    """The batch stays first."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = (0, *(axis + 1 for axis in axes))

    def forward(self, x: Tensor) -> Tensor:
        """Contiguous, so that the next op reads rows."""
        return x.permute(self.axes).contiguous()


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """No parameters."""
    return Permute(order(int(node.arguments[0])))
