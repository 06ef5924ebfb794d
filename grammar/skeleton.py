"""A grammar under a depth bound as plain states and options, and what follows from it without tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from archrank.grammar.model import Grammar

_MOST_STATES = 100_000


@dataclass(frozen=True, slots=True)
class Option:
    """One way to go on: a production, its probability, its own size, child states and their copies."""

    production: int
    weight: float
    size: int
    children: tuple[int, ...]
    copies: tuple[int, ...]


@dataclass(frozen=True)
class Skeleton:
    """States are nonterminals, or (nonterminal, depth left) under a depth bound; only what can end is kept.

    `heads[state]` is the nonterminal, `smallest[state]` the least expanded size.
    """

    start: int
    heads: tuple[int, ...]
    options: tuple[tuple[Option, ...], ...]
    smallest: tuple[int, ...]

    @cached_property
    def order(self) -> tuple[int, ...] | None:
        """States with their children first, or None where a state can hold itself."""
        mark, order = [0] * len(self.options), []
        todo = [(self.start, False)]
        while todo:
            state, done = todo.pop()
            if done:
                mark[state] = 2
                order.append(state)
            elif mark[state] == 0:
                mark[state] = 1
                todo.append((state, True))
                for option in self.options[state]:
                    for child in option.children:
                        if mark[child] == 1:
                            return None
                        todo.append((child, False))
        return tuple(order)

    @cached_property
    def largest(self) -> tuple[int | None, ...]:
        """The greatest expanded size of each state; None where there is none."""
        return largest_sizes(self.options)

    @cached_property
    def mass(self) -> tuple[float, ...]:
        """Inside probability of each state: of ending within the depth bound (1 where the skeleton is
        recursive).
        """
        mass = [1.0] * len(self.options)
        for state in self.order or ():
            mass[state] = math.fsum(o.weight * math.prod(mass[c] for c in o.children) for o in self.options[state])
        return tuple(mass)

    def count(self) -> int | None:
        """How many sentences there are without a size bound; None where there is no end of them."""
        if self.order is None:
            return None
        counts = [0] * len(self.options)
        for state in self.order:
            counts[state] = sum(math.prod(counts[c] for c in o.children) for o in self.options[state])
        return counts[self.start]

    def lift(self, choices: Sequence[int]) -> list[int] | None:
        """The state of each node of a derivation in preorder; None where the derivation is not in the
        skeleton.
        """
        states: list[int] = []
        stack, below = [self.start], self._below
        for production in choices:
            state = stack.pop()
            children = below.get((state, production))
            if children is None:
                return None
            states.append(state)
            stack.extend(children)
        return states

    @cached_property
    def _below(self) -> dict[tuple[int, int], tuple[int, ...]]:
        """Child states of a production at a state, last first."""
        return {(s, o.production): o.children[::-1] for s, ways in enumerate(self.options) for o in ways}


def largest_sizes(options: Sequence[Sequence[Option]]) -> tuple[int | None, ...]:
    """Greatest sizes, None for unbounded: a state that reaches a circle has no greatest size."""
    parents: list[list[int]] = [[] for _ in options]
    missing = [0] * len(options)
    for state, ways in enumerate(options):
        children = {child for option in ways for child in option.children}
        missing[state] = len(children)
        for child in children:
            parents[child].append(state)
    largest: list[int | None] = [None] * len(options)
    ready = [state for state, count in enumerate(missing) if count == 0]
    while ready:
        state = ready.pop()
        largest[state] = max(
            (
                o.size + sum(m * (largest[c] or 0) for c, m in zip(o.children, o.copies, strict=True))
                for o in options[state]
            ),
            default=0,
        )
        for parent in parents[state]:
            missing[parent] -= 1
            if missing[parent] == 0:
                ready.append(parent)
    return tuple(largest)


def skeleton(grammar: Grammar, depth: int | None = None) -> Skeleton | None:
    """The skeleton of a grammar; None where no sentence keeps the depth bound.

    `depth` bounds the aliased alternatives on the longest way from the start to a leaf. Raises ValueError
    where the bound asks for more states than fit.
    """
    count = len(grammar.names)
    levels = 1 if depth is None else depth + 1
    if count * levels > _MOST_STATES:
        raise ValueError(
            f"max depth = {depth}: at most {_MOST_STATES // count - 1:,} is held for {count} rules and terminals"
        )
    options: list[list[Option]] = []
    for level in range(levels):
        for head in range(count):
            options.append([])
            for index in grammar.by_head[head]:
                production = grammar.productions[index]
                below = level if depth is None else level - production.size
                if production.p > 0 and below >= 0:
                    children = tuple(below * count + child for child in production.children)
                    options[-1].append(Option(index, production.p, production.size, children, production.copies))
    heads = [head for _ in range(levels) for head in range(count)]
    return _pruned((levels - 1) * count + grammar.start, heads, options)


def _pruned(start: int, heads: list[int], options: list[list[Option]]) -> Skeleton | None:
    """Keeps the states that can end and that start reaches, and renumbers them."""
    smallest = _least(options)
    if math.isinf(smallest[start]):
        return None
    kept = [[o for o in ways if not any(math.isinf(smallest[c]) for c in o.children)] for ways in options]
    number, todo = {start: 0}, [start]
    for state in todo:
        for option in kept[state]:
            for child in option.children:
                if child not in number:
                    number[child] = len(number)
                    todo.append(child)
    renumbered = tuple(
        tuple(
            Option(o.production, o.weight, o.size, tuple(number[c] for c in o.children), o.copies) for o in kept[state]
        )
        for state in todo
    )
    return Skeleton(0, tuple(heads[s] for s in todo), renumbered, tuple(int(smallest[s]) for s in todo))


def _least(options: list[list[Option]]) -> list[float]:
    """Least sizes by a worklist; what stays infinite cannot end."""
    least = [math.inf] * len(options)
    parents: list[list[int]] = [[] for _ in options]
    for state, ways in enumerate(options):
        for child in {c for option in ways for c in option.children}:
            parents[child].append(state)
    todo = list(range(len(options)))
    while todo:
        state = todo.pop()
        value = min(
            (o.size + sum(m * least[c] for c, m in zip(o.children, o.copies, strict=True)) for o in options[state]),
            default=math.inf,
        )
        if value < least[state]:
            least[state] = value
            todo.extend(parents[state])
    return least
