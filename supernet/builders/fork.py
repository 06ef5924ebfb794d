"""The end of a trunk that several members share."""

from __future__ import annotations

from archrank.grammar import OpNode
from archrank.grammar.signatures import Shape
from archrank.supernet.shared_trunk import Fork


def build(inputs: tuple[Shape, ...], node: OpNode) -> Fork:
    """No parameters."""
    return Fork(int(node.arguments[0]))
