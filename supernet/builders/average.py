"""The mean of values of one shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


class Average(nn.Module):
    """(x₁ + … + x_K) / K."""

    def forward(self, *values: Tensor) -> Tensor:
        """Values of one shape."""
        return torch.stack(values).mean(0)


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """No parameters."""
    return Average()
