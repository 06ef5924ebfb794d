"""A decoder layer with rotary positions and a gated MLP."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from archrank.grammar import OpNode
from archrank.grammar.ops.gpt_block import HEAD
from archrank.grammar.signatures import Shape

BASE = 10_000.0


def rotary(x: Tensor) -> Tensor:
    """Rotates (batch, heads, length, d) by position: pairs (i, i + d/2), angle t · 10000^(−2i/d) (arXiv 2104.09864)."""
    length, half = x.shape[-2], x.shape[-1] // 2
    rates = BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.outer(torch.arange(length, device=x.device, dtype=torch.float32), rates)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Block(nn.Module):
    """Pre-normalised attention of heads of 64, then the MLP, each added to its input."""

    stacked: ClassVar = {"qkv.weight": 3, "qkv.bias": 3}
    """Queries, keys and values lie one after the other: what a narrower block inherits is the first heads of each."""

    def __init__(self, width: int, bias: bool, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads, inner = heads, HEAD * heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * inner, bias), nn.Linear(inner, width, bias)
        self.gate, self.up = (nn.Linear(width, ratio * width, bias) for _ in range(2))
        self.down = nn.Linear(ratio * width, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) → the same."""
        parts = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, HEAD)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        mixed = scaled_dot_product_attention(rotary(query), rotary(key), value, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        inner = self.norm_2(x)
        made: Tensor = x + self.down(silu(self.gate(inner)) * self.up(inner))
        return made


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """Arguments bias, heads, ratio."""
    bias, heads, ratio = (int(n) for n in node.arguments)
    return Block(inputs[0][1], bool(bias), heads, ratio)
