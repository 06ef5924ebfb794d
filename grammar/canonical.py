"""The canonical form of an architecture: equal for sentences that write the same graph.

Chains are flattened, `id` leaves no trace, and the modules between a `clone` and a commutative join are sorted. Ops
that happen to change nothing at one shape (a permutation of equal axes is none) stay: the form depends on the
sentence alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from archrank.grammar.program import BRANCH, CHAIN, HOST, LEAF, Program
from archrank.grammar.signatures import Op


class _Open:
    """A structure whose parts are being written: how many are still to come, and what they gave."""

    __slots__ = ("choice", "left", "parts")

    def __init__(self, choice: int, left: int) -> None:
        self.choice, self.left = choice, left
        self.parts: list[list[str]] = [[]]


def canonical(program: Program, choices: Sequence[int]) -> str:
    """The canonical form of productions in preorder; linear in their number but for sorting."""
    plans, leaves = program.plans, program.leaves
    top = _Open(-1, 1)
    stack, at = [top], 0
    chains: list[int] = []  # parts still to come of each open chain, the structures between them as -1
    while at < len(choices):
        plan = plans[choices[at]]
        if plan.kind == LEAF:
            leaf = leaves[tuple(choices[at : at + 1 + plan.terminals])]
            if not (isinstance(leaf.op, Op) and leaf.op.identity):
                stack[-1].parts[-1].append(leaf.word)
            at += 1 + plan.terminals
        elif plan.kind == HOST:
            words, at = _hosted(program, choices, at)
            stack[-1].parts[-1].append(words)
        else:
            at += 1
            if plan.kind == CHAIN:
                if plan.parts:
                    chains.append(plan.parts)
                    continue
            else:
                stack.append(_Open(choices[at - 1], plan.parts))
                chains.append(-1)
                continue
        while chains:
            if chains[-1] > 1:
                chains[-1] -= 1
                break
            if chains[-1] == -1:
                structure = stack[-1]
                structure.left -= 1
                if structure.left:
                    structure.parts.append([])
                    break
                stack.pop()
                stack[-1].parts[-1].append(_structure(program, structure))
            chains.pop()
    return ";".join(top.parts[0])


def _hosted(program: Program, choices: Sequence[int], at: int) -> tuple[str, int]:
    """An op with its adapters as one word, and where it ends."""
    plan = program.plans[choices[at]]
    stop = at + 1 + plan.terminals
    words = []
    host = program.leaves[tuple(choices[at:stop])].word
    for _ in range(plan.parts):
        after = stop + 1 + program.plans[choices[stop]].terminals
        words.append(program.leaves[tuple(choices[stop:after])].word)
        stop = after
    return f"{host}[{'|'.join(words)}]", stop


def _structure(program: Program, structure: _Open) -> str:
    plan = program.plans[structure.choice]
    assert plan.structure is not None
    parts = [";".join(words) for words in structure.parts]
    name = plan.structure.name + "".join(map(str, plan.arguments))
    if plan.structure.canonical is not None:
        return plan.structure.canonical(parts)
    if plan.kind == BRANCH and _exchangeable(program, parts):
        parts = [parts[0], *sorted(parts[1:-1]), parts[-1]]
    return f"{name}[{'|'.join(parts)}]"


def _exchangeable(program: Program, parts: Sequence[str]) -> bool:
    """Whether every module gets the same input and their order does not matter to the join."""
    return parts[0] in program.same_splits and parts[-1] in program.commutative_joins
