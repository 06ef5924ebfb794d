"""The engine of a general space: sentences of a PCFG under bounds on expanded size and depth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from archrank.grammar.analysis import Facts
from archrank.grammar.counting import SizeTable, check_limit
from archrank.grammar.derivation import Derivation, key_of
from archrank.grammar.model import Grammar
from archrank.grammar.sampling import Free, Sized, Uniforms, drawn, shuffled, weighted
from archrank.grammar.sentence import Sentences
from archrank.grammar.skeleton import Option, Skeleton

_TRIES = 64
_DRAWS = 200
_LOOKS = 2000


@dataclass(frozen=True, slots=True)
class Nodes:
    """A derivation's nodes in preorder: state, the node behind the subtree, its expanded size, its copies
    in the whole.
    """

    states: list[int]
    ends: list[int]
    sizes: list[int]
    copies: list[int]


class Trees:
    """Counts, draws and varies derivations of `skeleton` whose expanded size lies in [low, high] (high
    None: any).
    """

    def __init__(
        self, grammar: Grammar, facts: Facts, skeleton: Skeleton, low: int, high: int | None, uniform: bool
    ) -> None:
        self.grammar, self.skeleton, self.low = grammar, skeleton, low
        self.sentences = Sentences(grammar, facts)
        largest = skeleton.largest[skeleton.start]
        binds = high is not None and (largest is None or high < largest)
        self.high = high if binds else largest
        self.uniform = uniform and largest != skeleton.smallest[skeleton.start]
        self.tabled = binds or low > skeleton.smallest[skeleton.start] or self.uniform

    @cached_property
    def table(self) -> SizeTable:
        """Weights by size; raises ValueError where there is no upper bound to count up to."""
        return SizeTable(self.skeleton, self._limit())

    def _limit(self) -> int:
        if self.high is None:
            raise ValueError("the grammar is recursive and has no bound on its size: add `//@ max size = 200`")
        return self.high

    @cached_property
    def _free(self) -> Free:
        return Free(self.skeleton)

    @cached_property
    def _sized(self) -> Sized:
        return Sized(self.table)

    def derivation(self, choices: Sequence[int]) -> Derivation:
        """The candidate of these productions."""
        text = self.sentences.write(choices)
        return Derivation(text, key_of(text), tuple(choices))

    def parse(self, text: str) -> Derivation:
        """The candidate of a sentence; the bounds are not asked for."""
        return self.derivation(self.sentences.read_whole(text))

    def log_prob(self, d: Derivation) -> float:
        """Natural logarithm of the grammar's own probability, before any bound."""
        productions = self.grammar.productions
        return math.fsum(productions[c].log_p for c in d.choices)

    def meets(self, d: Derivation) -> bool:
        """Whether the candidate keeps the bounds."""
        states = self.skeleton.lift(d.choices)
        if states is None:
            return False
        size = self.nodes(d.choices, states).sizes[0]
        return self.low <= size and (self.high is None or size <= self.high)

    def is_empty(self) -> bool:
        """Whether no sentence keeps the bounds."""
        smallest = self.skeleton.smallest[self.skeleton.start]
        if self.high is not None and (self.high < max(self.low, smallest)):
            return True
        return self.low > smallest and not bool(np.any(self.table.weights[self.skeleton.start][self.low :]))

    def size(self) -> int:
        """How many sentences keep the bounds, exactly; raises ValueError where there is no end of them."""
        if not self.tabled or (
            self.uniform and self.low <= 0 and self.high == self.skeleton.largest[self.skeleton.start]
        ):
            count = self.skeleton.count()
            if count is None:
                self._limit()
            return count or 0
        exact = SizeTable(self.skeleton, self._limit(), exact=True)
        return int(sum(exact.weights[self.skeleton.start][self.low :].tolist()))

    def check_table(self) -> None:
        """Raises ValueError where there is no upper bound to count up to, or where it is more than tables
        hold.
        """
        check_limit(self.skeleton, self._limit())

    def size_summary(self) -> str:
        """Quantiles of the size of a sample, where the table is cheap enough to make in passing."""
        if not self.tabled or len(self.skeleton.options) * self._limit() > 20_000:
            return ""
        cumulative = np.cumsum(self.size_probabilities())
        sizes = [int(np.searchsorted(cumulative, q * cumulative[-1])) for q in (0.1, 0.5, 0.9)]
        return (
            f"; sizes of samples under the bound: 10 % up to {sizes[0]}, half up to {sizes[1]}, 90 % up to {sizes[2]}"
        )

    def size_probabilities(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Probability of each expanded size 0..high in a sample."""
        weights = self.table.weights[self.skeleton.start].astype(float)
        sizes = np.arange(len(weights))
        kept = (weights > 0) & (sizes >= self.low)
        logs = np.full(len(weights), -np.inf)
        logs[kept] = 0.0 if self.uniform else np.log(weights[kept]) - self.table.tilt * sizes[kept]
        found = np.exp(logs - logs.max())
        return np.asarray(found / found.sum())

    @cached_property
    def _cumulative(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.cumsum(self.size_probabilities())

    def finished(self, choices: Sequence[int], uniform: Uniforms) -> Sequence[int] | None:
        """What a drawn or varied derivation becomes before it is a candidate; None where it cannot be one."""
        return choices

    def sample(self, rng: np.random.Generator, n: int) -> list[Derivation]:
        """`n` independent candidates."""
        uniform = Uniforms(rng)
        return [self.derivation(self._fitting(uniform)) for _ in range(n)]

    def _fitting(self, uniform: Uniforms) -> Sequence[int]:
        for _ in range(_DRAWS):
            found = self.finished(self._drawn(uniform), uniform)
            if found is not None:
                return found
        raise self.no_fit()

    def no_fit(self) -> ValueError:
        """What to raise where no drawn derivation can become a candidate."""
        return ValueError(f"none of {_DRAWS} sentences could become a candidate")

    def _drawn(self, uniform: Uniforms) -> list[int]:
        if not self.tabled:
            return self._free.fill([self.skeleton.start], uniform)
        size = int(
            min(
                np.searchsorted(self._cumulative, uniform() * self._cumulative[-1], side="right"),
                len(self._cumulative) - 1,
            )
        )
        return self._sized.fill([(self.skeleton.start, size)], uniform)

    def enumerate(self) -> Iterator[Derivation]:
        """Every sentence within the bounds, by depth first in the file's order."""
        for choices in self.choices():
            yield self.derivation(choices)

    def choices(self) -> Iterator[list[int]]:
        """Depth-first search with what is still open as a linked list, so that going back costs nothing."""
        options, smallest = self.skeleton.options, self.skeleton.smallest
        start = self.skeleton.start
        if self.skeleton.order is None:
            self._limit()
        out: list[int] = []
        # (nodes so far, option to try next, size fixed so far plus the least of what is open, what is open)
        first: tuple[int, int, int, object] = (0, 0, smallest[start], (start, 1, None))
        trail = [first]
        while trail:
            count, index, least, open_ = trail.pop()
            del out[count:]
            if open_ is None:
                if least >= self.low:
                    yield list(out)
                continue
            assert isinstance(open_, tuple)
            state, copies, after = open_
            if index + 1 < len(options[state]):
                trail.append((count, index + 1, least, open_))
            option = options[state][index]
            total = least + copies * (_least(option, smallest) - smallest[state])
            if self.high is not None and total > self.high:
                continue
            out.append(option.production)
            for child, times in zip(reversed(option.children), reversed(option.copies), strict=True):
                after = (child, copies * times, after)
            trail.append((count + 1, 0, total, after))

    def nodes(self, choices: Sequence[int], states: list[int]) -> Nodes:
        """Where each subtree ends, how large it is, how often it is copied."""
        productions, count = self.grammar.productions, len(choices)
        copies, stack = [1] * count, [1]
        for i, choice in enumerate(choices):
            copies[i] = stack.pop()
            stack.extend(copies[i] * m for m in reversed(productions[choice].copies))
        sizes, ends = [0] * count, [0] * count
        done: list[int] = []
        for i in range(count - 1, -1, -1):
            production = productions[choices[i]]
            total, end = production.size, i + 1
            for m in production.copies:
                child = done.pop()
                total, end = total + m * sizes[child], ends[child]
            sizes[i], ends[i] = total, end
            done.append(i)
        return Nodes(states, ends, sizes, copies)

    def mutate(self, d: Derivation, rng: np.random.Generator) -> Derivation:
        """A node takes another option, its subtree is drawn anew under what the bounds leave; never equal
        to `d`.
        """
        uniform = Uniforms(rng)
        states = self.skeleton.lift(d.choices)
        if states is not None:
            nodes = self.nodes(d.choices, states)
            for i in shuffled(len(states), uniform):
                if len(self.skeleton.options[states[i]]) > 1:
                    subtree = self._another(d.choices[i], nodes, i, uniform)
                    child = subtree and self._child([*d.choices[:i], *subtree, *d.choices[nodes.ends[i] :]], uniform)
                    if child and child.key != d.key:
                        return child
        return self._other_than({d.key}, uniform)

    def _child(self, choices: Sequence[int], uniform: Uniforms) -> Derivation | None:
        found = self.finished(choices, uniform)
        return None if found is None else self.derivation(found)

    def _another(self, current: int, nodes: Nodes, i: int, uniform: Uniforms) -> list[int] | None:
        """A subtree for node i that begins with another option; None where the bounds leave none."""
        state = nodes.states[i]
        options = self.skeleton.options[state]
        # where all subtrees have one size, the whole keeps its own, and the tables would give the same at more cost
        same_size = self.skeleton.smallest[state] == self.skeleton.largest[state]
        if not self.tabled or (same_size and self.low <= nodes.sizes[0] <= self._limit()):
            free = zip(options, self._free.weights[state], strict=True)
            cumulative = list(accumulate(0.0 if o.production == current else w for o, w in free))
            if not cumulative[-1]:
                return None
            option = options[drawn(cumulative, uniform())]
            return [option.production, *self._free.fill(list(option.children), uniform)]
        rest = nodes.sizes[0] - nodes.copies[i] * nodes.sizes[i]
        low, high = -((rest - self.low) // nodes.copies[i]), (self._limit() - rest) // nodes.copies[i]
        low, high = max(0, low), min(high, self.table.limit)
        if high < low:
            return None
        by_size = self.table.option_weights(state, low, high)
        totals = [0.0 if o.production == current else float(w.sum()) for o, w in zip(options, by_size, strict=True)]
        if not any(totals):
            return None
        index = drawn(list(accumulate(totals)), uniform())
        size = low + weighted(by_size[index], uniform())
        option = options[index]
        return [
            option.production,
            *self._sized.fill(self._sized.shared(state, index, size - option.size, uniform), uniform),
        ]

    def _other_than(self, keys: set[str], uniform: Uniforms) -> Derivation:
        """Any sentence but these: drawn, and where draws repeat, the first that enumeration gives; it looks at a fixed
        number, since all the sentences of a typed space may write one architecture.
        """
        for _ in range(_TRIES):
            child = self.derivation(self._fitting(uniform))
            if child.key not in keys:
                return child
        for looked, choices in enumerate(self.choices()):
            child = self.derivation(choices)
            if child.key not in keys and self.meets(child):
                return child
            if looked == _LOOKS:
                raise ValueError(f"no other candidate was found among {_LOOKS:,} sentences: there is nothing to vary")
        raise ValueError(
            f"the space has no sentence other than {'the parent' if len(keys) == 1 else 'the parents'}: "
            "there is nothing to vary"
        )

    def crossover(self, a: Derivation, b: Derivation, rng: np.random.Generator) -> Derivation:
        """`a` with a subtree of `b` of the same rule, within the bounds; never equal to a parent."""
        uniform = Uniforms(rng)
        states = self.skeleton.lift(a.choices)
        productions = self.grammar.productions
        if states is not None:
            nodes, donor = self.nodes(a.choices, states), self.nodes(b.choices, [0] * len(b.choices))
            by_head: dict[int, list[int]] = {}
            for j, choice in enumerate(b.choices):
                by_head.setdefault(productions[choice].head, []).append(j)
            for _ in range(_TRIES):
                i = int(uniform() * len(a.choices))
                places = by_head.get(productions[a.choices[i]].head, ())
                if not places:
                    continue
                j = places[int(uniform() * len(places))]
                size = nodes.sizes[0] + nodes.copies[i] * (donor.sizes[j] - nodes.sizes[i])
                if size < self.low or (self.high is not None and size > self.high):
                    continue
                choices = (*a.choices[:i], *b.choices[j : donor.ends[j]], *a.choices[nodes.ends[i] :])
                if choices in (a.choices, b.choices) or self.skeleton.lift(choices) is None:
                    continue
                child = self._child(choices, uniform)
                if child and child.key not in (a.key, b.key):
                    return child
        for _ in range(_TRIES):
            child = self.mutate(a, rng)
            if child.key != b.key:
                return child
        return self._other_than({a.key, b.key}, uniform)


def _least(option: Option, smallest: Sequence[int]) -> int:
    return option.size + sum(m * smallest[c] for c, m in zip(option.children, option.copies, strict=True))
