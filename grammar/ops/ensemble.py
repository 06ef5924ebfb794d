"""Members that share a trunk: ensemble2(trunk, member, member), the split point of NEAS (Chen et al., CVPR 2021) being
where the trunk ends.

The trunk runs once; every member reads what it gave. The members' own features come out side by side; `with_head` puts
one head behind each instead, and averages their logits. One member alone is the chain of trunk and member.
"""

from __future__ import annotations

from collections.abc import Sequence

from archrank.grammar.ops import fork, members
from archrank.grammar.signatures import Step, Structure, Wiring

MOST_MEMBERS = 64


def wiring(parts: int, count: int) -> Wiring:
    """The trunk writes register 1, the fork 2, the members from 3 on, the join the last one."""
    if not 1 <= count <= MOST_MEMBERS:
        raise ValueError(f"ensemble{count}: from 1 to {MOST_MEMBERS} members")
    if parts != count + 1:
        raise ValueError(f"ensemble{count} is a trunk and {count} members, not {parts} parts")
    if count == 1:
        return Wiring((Step(0, (0,), (1,)), Step(1, (1,), (2,))), 3)
    own = tuple(range(3, 3 + count))
    runs = [Step(1 + k, (2,), (register,)) for k, register in enumerate(own)]
    last = (3 + count,)
    return Wiring(
        (Step(0, (0,), (1,)), Step(fork.OP, (1,), (2,), (count,)), *runs, Step(members.OP, own, last)), 4 + count
    )


def canonical(parts: Sequence[str]) -> str:
    """The order of the members does not matter; a single one is the chain."""
    if len(parts) == 2:
        return ";".join(part for part in parts if part)
    return f"ensemble{len(parts) - 1}[{'|'.join([parts[0], *sorted(parts[1:])])}]"


OP = Structure(name="ensemble", arguments=1, wiring=wiring, least_parts=2, canonical=canonical)
