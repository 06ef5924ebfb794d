"""Which architecture seen before a new one is most alike, and which ops of the two belong together.

Two architectures are compared from the input on and from the output back: one mutation or one crossover of a
derivation replaces a single stretch of ops, so that what lies before and behind it is the same.
"""

from __future__ import annotations

from collections import deque

from archrank.grammar import Architecture

__all__ = ["KEPT", "Relatives", "pairs"]

Signature = tuple[tuple[object, ...], ...]
KEPT = 256


class Relatives:
    """The last architectures that were seen; at most `kept` of them."""

    def __init__(self, kept: int = KEPT) -> None:
        self._seen: deque[tuple[Signature, Architecture]] = deque(maxlen=kept)

    def add(self, architecture: Architecture) -> None:
        """One more, the latest."""
        self._seen.append((_signature(architecture), architecture))

    def nearest(self, architecture: Architecture) -> Architecture | None:
        """The one that shares most of the child's weights at its ends, as a share of what either of both has; among
        equals the latest; None where none shares any.
        """
        own, best, found = _signature(architecture), 0.0, None
        for theirs, other in self._seen:
            first, last = _ends(theirs, own)
            shared = sum(map(_params, own[:first])) + sum(map(_params, own[len(own) - last :]))
            share = shared / max(1, architecture.params + other.params - shared)
            if share > 0 and share >= best:
                best, found = share, other
        return found


def pairs(parent: Architecture, child: Architecture) -> list[tuple[int, int]]:
    """(op of the parent, op of the child) by their numbers, for the ops that both begin and both end with."""
    first, last = _ends(_signature(parent), _signature(child))
    begin = [(i, i) for i in range(first)]
    return begin + [(len(parent.ops) - 1 - i, len(child.ops) - 1 - i) for i in range(last)]


def _signature(architecture: Architecture) -> Signature:
    return tuple((op.op, op.arguments, op.params, op.shape) for op in architecture.ops)


def _params(op: tuple[object, ...]) -> int:
    count = op[2]
    assert isinstance(count, int)
    return count


def _ends(one: Signature, other: Signature) -> tuple[int, int]:
    """How many ops both begin with, and how many of the others both end with."""
    most = min(len(one), len(other))
    first = next((i for i in range(most) if one[i] != other[i]), most)
    last = next((i for i in range(most - first) if one[-1 - i] != other[-1 - i]), most - first)
    return first, last
