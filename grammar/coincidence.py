"""Members of an ensemble that are the same network: equal ops in equal order from where they leave their trunk."""

from __future__ import annotations

from itertools import combinations

from archrank.grammar.architecture import Architecture
from archrank.grammar.heads import member_outputs
from archrank.grammar.ops import members


def coinciding(architecture: Architecture) -> tuple[tuple[int, int], ...]:
    """Pairs of members of an ensemble, with heads or without, that have the same ops; () of any other architecture.

    They have weights of their own: trained they differ as two seeds do, untrained or inherited they may be one and the
    same.
    """
    last = architecture.output
    outputs = member_outputs(architecture)
    if not outputs and last >= 0 and architecture.signatures[last] == members.OP:
        outputs = architecture.ops[last].inputs
    if not outputs:
        return ()
    number: dict[tuple[object, ...], int] = {}
    same = {-1: -1}
    for i, op in enumerate(architecture.ops):
        same[i] = number.setdefault((op.op, op.arguments, tuple(same[read] for read in op.inputs)), len(number))
    return tuple((i, j) for i, j in combinations(range(len(outputs)), 2) if same[outputs[i]] == same[outputs[j]])
