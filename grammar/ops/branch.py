"""A split, a module on each piece, a join: branch2, branch4, branch8, …

With as many modules as pieces each has its own; with one (marked `copies(module) = N`), that one is built N times.
"""

from __future__ import annotations

from archrank.grammar.signatures import Step, Structure, Wiring

MOST_WAYS = 1024


def wiring(parts: int, ways: int) -> Wiring:
    """The split writes registers 1…ways, the modules ways+1…2·ways, the join the last one."""
    modules = parts - 2
    if ways > MOST_WAYS:
        raise ValueError(f"branch{ways}: at most {MOST_WAYS:,} ways")
    if ways < 2 or modules not in (1, ways):
        raise ValueError(f"branch{ways} is a split, one module or {ways}, and a join, not {parts} parts")
    pieces = tuple(range(1, ways + 1))
    runs = [Step(1 + (i if modules > 1 else 0), (p,), (p + ways,)) for i, p in enumerate(pieces)]
    done = tuple(p + ways for p in pieces)
    return Wiring((Step(0, (0,), pieces), *runs, Step(parts - 1, done, (2 * ways + 1,))), 2 * ways + 2)


OP = Structure(name="branch", arguments=1, wiring=wiring, form="branch", least_parts=3)
