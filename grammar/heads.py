"""A classification head behind an architecture: the mean over positions and a linear layer."""

from __future__ import annotations

from dataclasses import replace

from archrank.grammar.architecture import Architecture, OpNode
from archrank.grammar.ops import linear, mean
from archrank.grammar.program import Leaf
from archrank.grammar.signatures import Argument, Op, Value

HEAD = -1
"""`OpNode.node` of a head's ops: they come from no place of the sentence."""


def with_head(architecture: Architecture, classes: int) -> Architecture:
    """The architecture with `classes` outputs; itself where it ends in a vector of that many already.

    An image's or a sequence's positions are averaged first. ValueError where classes < 1.
    """
    if classes < 1:
        raise ValueError(f"with_head(classes={classes}): at least 1")
    if architecture.shape == (classes,):
        return architecture
    if len(architecture.shape) > 1:
        architecture = _append(architecture, mean.OP, ())
    return _append(architecture, linear.OP, (classes,))


def _append(architecture: Architecture, op: Op, arguments: tuple[Argument, ...]) -> Architecture:
    result = Leaf((), op, arguments, 1.0).at(Value(architecture.shape))
    assert result is not None
    out, params, flops, written = result
    node = OpNode(op.name, arguments, (architecture.output,), out.shape, params, flops, written, HEAD)
    ops, signatures = (*architecture.ops, node), (*architecture.signatures, op)
    return replace(architecture, ops=ops, signatures=signatures, output=len(architecture.ops))
