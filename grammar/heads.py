"""A classification head behind an architecture: the mean over positions and a linear layer. The members of an ensemble
get one each, and the mean of their logits is the output.
"""

from __future__ import annotations

from dataclasses import replace

from archrank.grammar.architecture import Architecture, OpNode
from archrank.grammar.ops import average, linear, mean, members
from archrank.grammar.program import Leaf, Result
from archrank.grammar.signatures import Argument, Join, Op, Value

HEAD = -1
"""`OpNode.node` of a head's ops: they come from no place of the sentence."""


def with_head(architecture: Architecture, classes: int) -> Architecture:
    """The architecture with `classes` outputs; itself where it ends in a vector of that many already.

    An image's or a sequence's positions are averaged first. An ensemble gets a head for each member and the mean of
    their logits. ValueError where classes < 1.
    """
    if classes < 1:
        raise ValueError(f"with_head(classes={classes}): at least 1")
    if architecture.output >= 0 and architecture.signatures[architecture.output] == members.OP:
        return _with_heads(architecture, classes)
    return _headed(architecture, classes)


def member_outputs(architecture: Architecture) -> tuple[int, ...]:
    """The ops that give the members' logits in an architecture of `with_head`; () where it is no ensemble."""
    last = architecture.output
    if last < 0 or architecture.ops[last].node != HEAD or architecture.signatures[last] != average.OP:
        return ()
    return architecture.ops[last].inputs


def _headed(architecture: Architecture, classes: int) -> Architecture:
    if architecture.shape == (classes,):
        return architecture
    if len(architecture.shape) > 1:
        architecture = _append(architecture, mean.OP, ())
    return _append(architecture, linear.OP, (classes,))


def _with_heads(architecture: Architecture, classes: int) -> Architecture:
    """`members`, which stands last, makes way for a head behind each of what it read, and their average."""
    join = architecture.output
    assert join == len(architecture.ops) - 1, "nothing reads the members but the output"
    read = architecture.ops[join].inputs
    architecture = replace(architecture, ops=architecture.ops[:join], signatures=architecture.signatures[:join])
    heads = []
    for source in read:
        architecture = _headed(replace(architecture, output=source), classes)
        heads.append(architecture.output)
    leaf = Leaf((), average.OP, (), 1.0)
    result = leaf.join(tuple(Value((classes,)) for _ in heads))
    assert result is not None
    return _added(architecture, average.OP, (), tuple(heads), result)


def _append(architecture: Architecture, op: Op, arguments: tuple[Argument, ...]) -> Architecture:
    result = Leaf((), op, arguments, 1.0).at(Value(architecture.shape))
    assert result is not None
    return _added(architecture, op, arguments, (architecture.output,), result)


def _added(
    architecture: Architecture, op: Op | Join, arguments: tuple[Argument, ...], reads: tuple[int, ...], result: Result
) -> Architecture:
    node = OpNode(op.name, arguments, reads, result.out.shape, result.params, result.flops, result.written, HEAD)
    ops, signatures = (*architecture.ops, node), (*architecture.signatures, op)
    return replace(architecture, ops=ops, signatures=signatures, output=len(architecture.ops))
