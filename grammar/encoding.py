"""A fixed flat list of categorical slots for strategies that want vectors; every vector decodes to a valid
sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from archrank.grammar.derivation import Derivation
from archrank.grammar.sampling import Uniforms
from archrank.grammar.site_space import Sites
from archrank.grammar.skeleton import Option, Skeleton
from archrank.grammar.trees import Trees

MOST_SLOTS = 20_000


@dataclass(frozen=True, slots=True)
class Slot:
    """One decision: its name, and the labels of its choices in order."""

    name: str
    choices: tuple[str, ...]


class SiteEncoding:
    """One slot per site; choice k of a slot is the k-th option that fits the site."""

    def __init__(self, space: Sites) -> None:
        self._space = space
        self.slots = tuple(
            Slot(site.name, tuple(space.options[i].label for i in kept))
            for site, kept in zip(space.sites, space.kept, strict=True)
        )

    def encode(self, d: Derivation) -> list[int]:
        """Slot values of a candidate."""
        return [kept.index(c) for c, kept in zip(d.choices, self._space.kept, strict=True)]

    def decode(self, values: Sequence[int]) -> Derivation:
        """The candidate of slot values; where a range breaks, a few sites are drawn anew, always the same
        for the same values.
        """
        check_values(self.slots, values)
        choices = [kept[v] for v, kept in zip(values, self._space.kept, strict=True)]
        return self._space.repaired(choices, np.random.default_rng([int(v) for v in values]))


class TreeEncoding:
    """Slot (rule, k) decides the k-th time that the rule is expanded, reading left to right (structured
    grammatical evolution, Lourenço et al. 2018); slots that a sentence does not reach are ignored.

    Where a choice would break the bounds the next one in the file's order that keeps them is taken.
    """

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        grammar = trees.grammar
        self._ways = [[i for i in productions if grammar.productions[i].p > 0] for productions in grammar.by_head]
        times = most_times(trees)
        total = sum(n for head, n in enumerate(times) if len(self._ways[head]) > 1)
        if total > MOST_SLOTS:
            raise ValueError(
                f"the encoding would have {total:,} slots; at most {MOST_SLOTS:,} are held: tighten `max "
                "size` or `max depth`"
            )
        self._first: dict[int, int] = {}
        slots: list[Slot] = []
        for head, n in enumerate(times):
            if len(self._ways[head]) > 1 and n:
                self._first[head] = len(slots)
                labels = tuple(grammar.productions[i].label for i in self._ways[head])
                slots.extend(Slot(f"{grammar.names[head]}.{k}", labels) for k in range(n))
        self.slots = tuple(slots)
        self._times = times

    def encode(self, d: Derivation) -> list[int]:
        """Slot values of a candidate; 0 where a slot is not reached."""
        values, seen = [0] * len(self.slots), [0] * len(self._times)
        for choice in d.choices:
            head = self._trees.grammar.productions[choice].head
            if head in self._first:
                values[self._first[head] + seen[head]] = self._ways[head].index(choice)
                seen[head] += 1
        return values

    def decode(self, values: Sequence[int]) -> Derivation:
        """The candidate of slot values, within the bounds."""
        check_values(self.slots, values)
        trees, skeleton = self._trees, self._trees.skeleton
        seen, out = [0] * len(self._times), []
        slack = None if trees.high is None else trees.high - skeleton.smallest[skeleton.start]
        stack = [(skeleton.start, 1)]
        size = skeleton.smallest[skeleton.start]
        while stack:
            state, copies = stack.pop()
            head = skeleton.heads[state]
            wanted = 0
            if head in self._first:
                wanted = values[self._first[head] + seen[head]]
                seen[head] += 1
            option, extra = self._option(skeleton, state, head, wanted, None if slack is None else slack // copies)
            size += copies * extra
            slack = None if slack is None else slack - copies * extra
            out.append(option.production)
            stack.extend(
                (c, copies * m) for c, m in zip(reversed(option.children), reversed(option.copies), strict=True)
            )
        rng = np.random.default_rng([int(v) for v in values])
        finished = trees.finished(out, Uniforms(rng))
        found = None if finished is None else trees.derivation(finished)
        if found is not None and trees.meets(found):
            return found
        return trees.sample(rng, 1)[0]

    def _option(self, skeleton: Skeleton, state: int, head: int, wanted: int, slack: int | None) -> tuple[Option, int]:
        """The wanted option, or the next that fits, and how far it is above the state's least size."""
        by_production = {option.production: option for option in skeleton.options[state]}
        ways = self._ways[head]
        for step in range(len(ways)):
            option = by_production.get(ways[(wanted + step) % len(ways)])
            if option is not None:
                least = option.size + sum(
                    m * skeleton.smallest[c] for c, m in zip(option.children, option.copies, strict=True)
                )
                extra = least - skeleton.smallest[state]
                if slack is None or extra <= slack:
                    return option, extra
        raise AssertionError("the option of least size always fits")


def check_values(slots: Sequence[Slot], values: Sequence[int]) -> None:
    """Raises ValueError where the values do not fit the slots."""
    if len(values) != len(slots):
        raise ValueError(f"{len(values)} values for {len(slots)} slots: give one for each of encoding()")
    for slot, value in zip(slots, values, strict=True):
        if not 0 <= value < len(slot.choices):
            raise ValueError(f"slot {slot.name}: value {value} is outside 0..{len(slot.choices) - 1}")


def most_times(trees: Trees) -> list[int]:
    """An upper bound on how often each nonterminal stands in a sentence; raises ValueError where there is
    none.
    """
    skeleton, count = trees.skeleton, len(trees.grammar.names)
    if skeleton.order is None and trees.high is None:
        raise ValueError("an encoding needs a bound: add `//@ max size = 200` or `//@ max depth = 8`")
    by_size = None if trees.high is None else _times_by_size(skeleton, count, trees.high)
    if skeleton.order is None:
        assert by_size is not None
        return by_size
    times: list[list[int]] = [[0] * count for _ in skeleton.options]
    for state in skeleton.order:
        for option in skeleton.options[state]:
            for head in range(count):
                times[state][head] = max(times[state][head], sum(times[c][head] for c in option.children))
        times[state][skeleton.heads[state]] += 1
    exact = times[skeleton.start]
    return exact if by_size is None else [min(a, b) for a, b in zip(exact, by_size, strict=True)]


def _times_by_size(skeleton: Skeleton, count: int, high: int) -> list[int]:
    """Each node without a size of its own hangs below an aliased one, or the start, through such nodes
    only.
    """
    hung: list[list[int]] = [[0] * count for _ in skeleton.options]
    for state in _unsized_first(skeleton):
        unsized = [_below(hung, option, count) for option in skeleton.options[state] if option.size == 0]
        hung[state] = [max(column) for column in zip(*unsized, strict=True)] if unsized else hung[state]
        hung[state][skeleton.heads[state]] += 1
    own = [_below(hung, option, count) for ways in skeleton.options for option in ways if option.size] or [[0] * count]
    widest = [max(of_head) for of_head in zip(*own, strict=True)]
    return [hung[skeleton.start][head] + high * widest[head] for head in range(count)]


def _below(hung: list[list[int]], option: Option, count: int) -> list[int]:
    return [sum(hung[c][head] for c in option.children) for head in range(count)]


def _unsized_first(skeleton: Skeleton) -> list[int]:
    """States such that those reached through options without a size come first."""
    mark, order = [0] * len(skeleton.options), []
    for root in range(len(skeleton.options)):
        todo = [(root, False)]
        while todo:
            state, done = todo.pop()
            if done:
                order.append(state)
            elif mark[state] == 0:
                mark[state] = 1
                todo.append((state, True))
                todo.extend(
                    (c, False) for option in skeleton.options[state] if option.size == 0 for c in option.children
                )
    return order
