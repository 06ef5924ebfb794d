"""Candidates of a space without recursion as rows of integers, whole populations at a time.

The grammar is unrolled into places: a place is where a rule stands (the child indices that lead there) and the rule; a
row holds for each place which way was taken, -1 where the sentence does not reach it. Unlike the flat encoding's slots
(the k-th time that a rule is expanded), a place means the same whatever stands to its left, and alternatives that have
the same rule at the same child share a place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archrank.grammar.derivation import Derivation
from archrank.grammar.sampling import Uniforms
from archrank.grammar.site_space import Sites
from archrank.grammar.skeleton import Option
from archrank.grammar.trees import Trees

__all__ = ["MOST_PLACES", "Codes", "Paths", "Place", "SitePaths", "TreePaths", "unrolled"]

MOST_PLACES = 600
Codes = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Place:
    """One decision: its name, its rule, and its ways: labels, and numbers where every label is one (else None)."""

    name: str
    rule: str
    labels: tuple[str, ...]
    numbers: tuple[float, ...] | None
    weights: tuple[float, ...]


class Paths(ABC):
    """What strategies need of rows: (n, places) codes."""

    places: tuple[Place, ...]

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = tuple(places)
        self.sizes = np.array([len(p.labels) for p in places], np.int64)
        widest = int(self.sizes.max(initial=1))
        odds = np.zeros((len(places), widest))
        for i, place in enumerate(places):
            odds[i, : len(place.weights)] = np.asarray(place.weights) / sum(place.weights)
        self._cumulative = np.cumsum(odds, axis=1)

    @abstractmethod
    def encode(self, d: Derivation) -> list[int]:
        """The row of a candidate."""

    @abstractmethod
    def decode(self, row: Sequence[int]) -> Derivation | None:
        """The candidate of a row; None where it breaks the bounds."""

    @abstractmethod
    def written(self, row: Sequence[int]) -> Derivation:
        """The sentence of a row as it stands, the bounds and shapes unchecked."""

    @abstractmethod
    def reached(self, codes: Codes, rng: np.random.Generator | None = None) -> Codes:
        """The rows with -1 exactly at the places that they do not reach; reached places without a way draw one by the
        grammar's probabilities (without a generator: the first).
        """

    def fits(self, codes: Codes) -> Flags:
        """(n, places) -> (n,): whether the bounds that are cheap to check are kept."""
        return np.ones(len(codes), dtype=bool)

    def neighbours(self, codes: Codes, rng: np.random.Generator, most: int | None = None) -> Codes:
        """All rows that take another way at one reached place of one of the rows (n, places), at most `most` of them
        drawn; places reached anew draw their ways.
        """
        open_ = np.flatnonzero(self.sizes > 1)
        here, place = np.nonzero(codes[:, open_] >= 0)
        place = open_[place]
        times = self.sizes[place] - 1
        row, where = np.repeat(here, times), np.repeat(place, times)
        step = 1 + np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times)
        if most is not None and len(row) > most:
            kept = np.sort(rng.permutation(len(row))[:most])
            row, where, step = row[kept], where[kept], step[kept]
        found: Codes = codes[row].copy()
        found[np.arange(len(row)), where] = (found[np.arange(len(row)), where] + step) % self.sizes[where]
        return self.reached(found, rng)

    def drawn(self, shape: tuple[int, ...], rng: np.random.Generator) -> Codes:
        """Ways by the grammar's probabilities, (…, places)."""
        uniform = rng.random((*shape, len(self.places)))
        found: Codes = (uniform[..., None] >= self._cumulative).sum(-1)
        return np.minimum(found, self.sizes - 1)


class TreePaths(Paths):
    """Of a general space whose rules hold no circle."""

    def __init__(self, trees: Trees) -> None:
        self._trees, grammar = trees, trees.grammar
        skeleton = trees.skeleton
        start = grammar.start
        order: dict[tuple[tuple[int, ...], int], int] = {((), start): 0}
        self._ways: list[list[int]] = []
        above: list[list[tuple[int, list[int]]]] = [[]]  # (parent, ways that lead here)
        allowed = _kept_productions(skeleton.heads, skeleton.options)
        at, level = 0, list(order)
        while level:
            below: list[tuple[tuple[int, ...], int]] = []
            for path, head in level:
                ways = allowed[head]
                self._ways.append(ways)
                for way, production in enumerate(ways):
                    for i, child in enumerate(grammar.productions[production].children):
                        key = ((*path, i), child)
                        if key not in order:
                            order[key] = len(order)
                            above.append([])
                            below.append(key)
                            if len(order) > MOST_PLACES:
                                raise ValueError(f"more than {MOST_PLACES} places")
                        links = above[order[key]]
                        if not links or links[-1][0] != at:
                            links.append((at, []))
                        links[-1][1].append(way)
                at += 1
            level = below
        self._order, self._above = order, []
        for links in above:
            self._above.append([(parent, np.isin(np.arange(len(self._ways[parent])), w)) for parent, w in links])
        super().__init__([self._place(path, head) for path, head in order])

    def _place(self, path: tuple[int, ...], head: int) -> Place:
        grammar = self._trees.grammar
        productions = [grammar.productions[i] for i in self._ways[self._order[path, head]]]
        labels = tuple(p.label for p in productions)
        name = ".".join([*map(str, path), grammar.names[head]])
        return Place(name, grammar.names[head], labels, _numbers(labels), tuple(p.p for p in productions))

    def encode(self, d: Derivation) -> list[int]:
        """The row of a candidate."""
        grammar, row = self._trees.grammar, [-1] * len(self.places)
        stack: list[tuple[int, ...]] = [()]
        for choice in d.choices:
            path, production = stack.pop(), grammar.productions[choice]
            place = self._order[path, production.head]
            row[place] = self._ways[place].index(choice)
            stack.extend((*path, i) for i in reversed(range(len(production.children))))
        return row

    def decode(self, row: Sequence[int]) -> Derivation | None:
        """The candidate of a row; None where it breaks the bounds."""
        trees, out = self._trees, self._productions(row)
        if trees.skeleton.lift(out) is None:
            return None
        as_written = trees.derivation(out)
        if trees.meets(as_written):
            return as_written
        rng = np.random.default_rng([int(v) + 1 for v in row])
        finished = trees.finished(out, Uniforms(rng))
        found = None if finished is None else trees.derivation(finished)
        return found if found is not None and trees.meets(found) else None

    def written(self, row: Sequence[int]) -> Derivation:
        """The sentence of a row as it stands, the bounds and shapes unchecked."""
        return self._trees.derivation(self._productions(row))

    def _productions(self, row: Sequence[int]) -> list[int]:
        trees, out = self._trees, list[int]()
        stack: list[tuple[tuple[int, ...], int]] = [((), trees.grammar.start)]
        while stack:
            path, head = stack.pop()
            place = self._order[path, head]
            out.append(self._ways[place][row[place]])
            children = trees.grammar.productions[out[-1]].children
            stack.extend(((*path, i), child) for i, child in reversed(list(enumerate(children))))
        return out

    def reached(self, codes: Codes, rng: np.random.Generator | None = None) -> Codes:
        """See `Paths.reached`; one pass from the start downwards."""
        fresh = np.zeros_like(codes) if rng is None else self.drawn((len(codes),), rng)
        out = np.where(codes < 0, fresh, codes).T.copy()
        for i, links in enumerate(self._above):
            if i:
                here = np.zeros(out.shape[1], dtype=bool)
                for parent, leads in links:
                    here |= leads[out[parent]] & (out[parent] >= 0)
                out[i, ~here] = -1
        return np.ascontiguousarray(out.T)


class SitePaths(Paths):
    """Of a space of sites: a place a site, every place reached."""

    def __init__(self, sites: Sites) -> None:
        self._sites = sites
        places = []
        for site, kept, weights in zip(sites.sites, sites.kept, sites.weights, strict=True):
            options = [sites.options[k] for k in kept]
            several = len({o.family for o in options} - {"none"}) > 1
            numbers = None if several else tuple(float(o.adapter.rank) for o in options)
            labels = tuple(o.label for o in options)
            places.append(Place(site.name, "site", labels, _rising(numbers), tuple(weights.tolist())))
        super().__init__(places)
        self._costs = [cost[list(kept)] for cost, kept in zip(sites.costs, sites.kept, strict=True)]

    def encode(self, d: Derivation) -> list[int]:
        """The row of a candidate."""
        return [kept.index(c) for c, kept in zip(d.choices, self._sites.kept, strict=True)]

    def decode(self, row: Sequence[int]) -> Derivation | None:
        """The candidate of a row; None where it breaks the ranges."""
        found = self.written(row)
        return found if self._sites.meets(found) else None

    def written(self, row: Sequence[int]) -> Derivation:
        """The sentence of a row as it stands, the ranges unchecked."""
        return self._sites.derivation([kept[int(v)] for v, kept in zip(row, self._sites.kept, strict=True)])

    def reached(self, codes: Codes, rng: np.random.Generator | None = None) -> Codes:
        """The rows as they are: every site is reached."""
        fresh = np.zeros_like(codes) if rng is None else self.drawn((len(codes),), rng)
        return np.where(codes < 0, fresh, codes)

    def fits(self, codes: Codes) -> Flags:
        """Whether the totals lie in the ranges."""
        totals = np.zeros((len(codes), len(self._sites.low)), np.int64)
        for column, cost in zip(codes.T, self._costs, strict=True):
            totals += cost[column]
        inside = (totals >= np.array(self._sites.low)) & (totals <= np.array(self._sites.high))
        return np.asarray(inside.all(axis=1))


def unrolled(engine: Trees | Sites) -> Paths | None:
    """The places of a space; None where it is recursive or would have too many."""
    if isinstance(engine, Sites):
        return SitePaths(engine) if len(engine.sites) <= MOST_PLACES else None
    if engine.skeleton.order is None:
        return None
    try:
        return TreePaths(engine)
    except ValueError:
        return None


def _kept_productions(heads: Sequence[int], options: Sequence[Sequence[Option]]) -> dict[int, list[int]]:
    kept: dict[int, set[int]] = {}
    for head, ways in zip(heads, options, strict=True):
        kept.setdefault(head, set()).update(option.production for option in ways)
    return {head: sorted(found) for head, found in kept.items()}


def _numbers(labels: Sequence[str]) -> tuple[float, ...] | None:
    """The labels as rising numbers (`25%` is one), None where one is none."""
    try:
        return _rising(tuple(float(label.strip('"').rstrip("%")) for label in labels))
    except ValueError:
        return None


def _rising(numbers: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if numbers is None or len(numbers) < 3 or list(numbers) != sorted(set(numbers)):
        return None
    return numbers
