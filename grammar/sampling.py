"""Exact sampling of subtrees: top down by probabilities, or by counting tables at a given size. No
rejection, no recursion.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from archrank.grammar.counting import SizeTable
from archrank.grammar.skeleton import Option, Skeleton

MOST_NODES = 1_000_000


class Uniforms:
    """Uniform numbers in [0, 1), drawn from a generator in blocks that grow, since single draws cost more
    than their use.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._length = rng, 8
        self._block: Iterator[float] = iter(())

    def __call__(self) -> float:
        """The next number."""
        for value in self._block:
            return value
        self._length = min(2 * self._length, 2048)
        self._block = iter(self._rng.random(self._length).tolist())
        return self()


def drawn(cumulative: list[float], uniform: float) -> int:
    """The index that a uniform number picks from cumulative weights."""
    return min(bisect_right(cumulative, uniform * cumulative[-1]), len(cumulative) - 1)


def shuffled(count: int, uniform: Callable[[], float]) -> Iterator[int]:
    """0 … count - 1 in a random order, of which mostly just the first is asked for."""
    order = list(range(count))
    for left in range(count, 0, -1):
        at = int(uniform() * left)
        yield order[at]
        order[at] = order[left - 1]


def weighted(weights: NDArray[np.float64], uniform: float) -> int:
    """The index that a uniform number picks from weights of a positive sum."""
    cumulative = np.cumsum(weights)
    return int(min(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"), np.flatnonzero(weights)[-1]))


class Free:
    """Draws subtrees from the probabilities alone, conditioned on the depth bound where there is one."""

    def __init__(self, skeleton: Skeleton) -> None:
        self.skeleton = skeleton
        mass = skeleton.mass
        self.weights = [[o.weight * math.prod(mass[c] for c in o.children) for o in ways] for ways in skeleton.options]
        self._cumulative = [list(accumulate(ways)) for ways in self.weights]

    def fill(self, states: list[int], uniform: Callable[[], float]) -> list[int]:
        """Productions in preorder of one subtree per state, one after the other.

        Raises ValueError where it grows beyond a million nodes.
        """
        options, cumulative = self.skeleton.options, self._cumulative
        out: list[int] = []
        stack = states[::-1]
        while stack:
            state = stack.pop()
            ways = options[state]
            option = ways[drawn(cumulative[state], uniform())] if len(ways) > 1 else ways[0]
            out.append(option.production)
            stack.extend(reversed(option.children))
            if len(out) > MOST_NODES:
                raise ValueError(
                    f"a sample grew beyond {MOST_NODES:,} nodes: the grammar branches too fast; bound it, "
                    "`//@ max size = 200`"
                )
        return out


class Sized:
    """Draws subtrees of a given size from a counting table."""

    def __init__(self, table: SizeTable) -> None:
        self.table = table
        self._plans = [[self._plan(option) for option in ways] for ways in table.skeleton.options]

    def _plan(self, option: Option) -> tuple[tuple[int, int, int, int], ...]:
        """Per child: state, copies, its size where that is always the same (else -1), and the size of all children
        after it where that is (else -1): what needs no table.
        """
        smallest, largest = self.table.skeleton.smallest, self.table.skeleton.largest
        found: list[tuple[int, int, int, int]] = []
        after = 0
        for child, copies in zip(reversed(option.children), reversed(option.copies), strict=True):
            fixed = smallest[child] if smallest[child] == largest[child] else -1
            found.append((child, copies, fixed, after))
            after = after + copies * fixed if fixed >= 0 <= after else -1
        return tuple(reversed(found))

    def fill(self, todo: list[tuple[int, int]], uniform: Callable[[], float]) -> list[int]:
        """Productions in preorder of one subtree per (state, size), one after the other."""
        table, options = self.table, self.table.skeleton.options
        out: list[int] = []
        stack = todo[::-1]
        while stack:
            state, size = stack.pop()
            cumulative, indices = table.choice(state, size)
            index = indices[drawn(cumulative, uniform())] if len(indices) > 1 else indices[0]
            option = options[state][index]
            out.append(option.production)
            if option.children:
                stack.extend(reversed(self.shared(state, index, size - option.size, uniform)))
        return out

    def shared(self, state: int, index: int, rest: int, uniform: Callable[[], float]) -> list[tuple[int, int]]:
        """The children of an option with the sizes that share `rest` among them."""
        found: list[tuple[int, int]] = []
        for j, (child, copies, fixed, after) in enumerate(self._plans[state][index]):
            if fixed >= 0:
                size = fixed
            elif after >= 0:
                size = (rest - after) // copies
            else:
                cumulative, sizes = self.table.split(state, index, j, rest)
                size = sizes[drawn(cumulative, uniform())] if len(sizes) > 1 else sizes[0]
            found.append((child, size))
            rest -= copies * size
        return found
