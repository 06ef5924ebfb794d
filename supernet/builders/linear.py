"""torch.nn.Linear over the last axis."""

from __future__ import annotations

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """With bias."""
    return nn.Linear(inputs[0][-1], node.shape[-1])
