"""Token numbers to rows of a table."""

from __future__ import annotations

from torch import nn

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape


def build(inputs: tuple[Shape, ...], node: OpNode) -> nn.Module:
    """(vocabulary, width)."""
    return nn.Embedding(int(node.arguments[0]), node.shape[1])
