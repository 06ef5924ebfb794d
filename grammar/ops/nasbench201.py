"""NAS-Bench-201's network (Dong and Yang 2020, arXiv 2001.00326): one cell of six edges, built fifteen times.

Stem, five cells at 16 channels, reduction, five at 32, reduction, five at 64, head for 10 classes. In a cell node 1
is e₁(x), node 2 is e₂(x) + e₃(node 1), the output e₄(x) + e₅(node 1) + e₆(node 2): the benchmark's own edge order.
"""

from __future__ import annotations

from collections.abc import Sequence

from archrank.grammar.ops import add, nb201_head, nb201_reduction, nb201_stem
from archrank.grammar.signatures import Step, Structure, Wiring

CELLS_PER_STAGE = 5
CLASSES = 10
_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


def wiring(parts: int) -> Wiring:
    """The whole network over the six edges of its cell."""
    if parts != len(_EDGES):
        raise ValueError(f"a NAS-Bench-201 cell has six edges, not {parts}")
    steps = [Step(nb201_stem.OP, (0,), (1,))]
    for stage in range(3):
        if stage:
            steps.append(Step(nb201_reduction.OP, (_last(steps),), (_last(steps) + 1,)))
        for _ in range(CELLS_PER_STAGE):
            steps.extend(_cell(_last(steps)))
    steps.append(Step(nb201_head.OP, (_last(steps),), (_last(steps) + 1,), (CLASSES,)))
    return Wiring(tuple(steps), _last(steps) + 1)


def _last(steps: Sequence[Step]) -> int:
    return steps[-1].writes[0]


def _cell(source: int) -> list[Step]:
    nodes, steps, register = [source], list[Step](), source
    for target in (1, 2, 3):
        terms = []
        for part, (a, b) in enumerate(_EDGES):
            if b == target:
                register += 1
                steps.append(Step(part, (nodes[a],), (register,)))
                terms.append(register)
        if len(terms) > 1:
            register += 1
            steps.append(Step(add.OP, tuple(terms), (register,)))
        nodes.append(register)
    return steps


def canonical(parts: Sequence[str]) -> str:
    """The benchmark's classes: skips removed, sums sorted, an edge from zero is zero, sums of zeros stay: 6,466.

    Sums within sums are not told from their terms, as in the benchmark's own strings, whose form and order this keeps.
    """
    nodes = ["0"]
    for target in (1, 2, 3):
        terms = []
        for word, (a, b) in zip(parts, _EDGES, strict=True):
            if b == target:
                zero = word == "zero" or nodes[a] == "#"
                terms.append("#" if zero else f"({nodes[a]})@{word}" if word else nodes[a])
        nodes.append("+".join(sorted(terms)))
    return f"nasbench201[{nodes[-1]}]"


OP = Structure(name="nasbench201", wiring=wiring, least_parts=6, canonical=canonical)
