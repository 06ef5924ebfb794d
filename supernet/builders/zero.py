"""Zeros of the input's shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


class Zero(nn.Module):
    """Not x · 0, which would keep NaN."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros like x."""
        return torch.zeros_like(x)


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """No parameters."""
    return Zero()
