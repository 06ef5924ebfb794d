"""Members of an ensemble without heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


class Members(nn.Module):
    """The means over positions, side by side."""

    def forward(self, *values: Tensor) -> Tensor:
        """Images (n, c, h, w), sequences (n, length, width) or vectors (n, width), each its own shape."""
        return torch.cat([_pooled(value) for value in values], 1)


def _pooled(x: Tensor) -> Tensor:
    if x.dim() == 2:
        return x
    return x.mean((2, 3)) if x.dim() == 4 else x.mean(1)


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """No parameters."""
    return Members()
