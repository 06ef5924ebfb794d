"""The matrix product of two values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


class Product(nn.Module):
    """Over the last two axes, times a constant."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(…, m, k) × (…, k, n) → (…, m, n)."""
        product = torch.matmul(a, b)
        return product if self.scale == 1.0 else product * self.scale


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """No parameters."""
    return Product()
