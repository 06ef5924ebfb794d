"""Values side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


class Concat(nn.Module):
    """Along an axis counted from 1 behind the batch."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *values: Tensor) -> Tensor:
        """Values equal in the other axes."""
        return torch.cat(values, self.axis)


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """No parameters."""
    return Concat(int(node.arguments[0]))
