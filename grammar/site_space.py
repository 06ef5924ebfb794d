"""The engine of a space of sites: one option per module of a base, under ranges on additive costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from archrank.grammar.analysis import Facts
from archrank.grammar.budget import BudgetTable, Ints, Ranges, count
from archrank.grammar.derivation import Derivation, key_of
from archrank.grammar.errors import listed, shortened
from archrank.grammar.model import Grammar
from archrank.grammar.nearest import did_you_mean
from archrank.grammar.sentence import Sentences, check_sentence, sentence_error
from archrank.grammar.sites import COSTS, Adapter, Site, SiteOption, option_cost, rank_limit

_TRIES = 64
Range = tuple[int, int]


class Sites:
    """Counts, draws and varies assignments of options to sites.

    `kept[i]` are the options that fit site i; `ranges` maps a cost's name to its least and greatest total.
    """

    def __init__(
        self, grammar: Grammar, facts: Facts, options: tuple[SiteOption, ...], sites: tuple[Site, ...],
        kept: tuple[tuple[int, ...], ...], ranges: Mapping[str, Range],
    ) -> None:  # fmt: skip
        self.grammar, self.facts, self.options, self.sites, self.kept = grammar, facts, options, sites, kept
        self.sentences = Sentences(grammar, facts)
        shapes: dict[tuple[int, int], Ints] = {}
        self.costs: list[Ints] = []
        for site in sites:
            shape = (site.out_features, site.in_features)
            if shape not in shapes:
                shapes[shape] = np.array([option_cost(option, site) for option in options], np.int64)
            self.costs.append(shapes[shape])
        self.low = [ranges[name][0] if name in ranges else 0 for name in COSTS]
        self.high = [ranges[name][1] if name in ranges else 2**62 for name in COSTS]
        self._least, self._most = np.array(self.low, np.int64), np.array(self.high, np.int64)
        self.weights = [np.exp([options[i].log_p for i in of_site]) for of_site in kept]
        self._all_costs, self._places = np.stack(self.costs), np.arange(len(sites))
        self._kept_costs = [costs[list(of_site)] for costs, of_site in zip(self.costs, kept, strict=True)]
        self._kept_options = [np.array(of_site) for of_site in kept]
        self._by_choices = {option.choices: i for i, option in enumerate(options)}
        self._index = {site.name: i for i, site in enumerate(sites)}
        self._alone = next((i for i, option in enumerate(options) if option.family == "none"), None)

    @cached_property
    def ranges(self) -> Ranges:
        """The ranges that can fail, in whole units."""
        return Ranges([c[list(k)] for c, k in zip(self.costs, self.kept, strict=True)], self.low, self.high)

    @cached_property
    def table(self) -> BudgetTable:
        """The counting table over (site, cost so far)."""
        return BudgetTable(self.ranges, self.weights)

    def is_empty(self) -> bool:
        """Whether no assignment keeps the ranges (or none is found at the table's resolution)."""
        return self.ranges.empty or self.table.empty

    def least(self, name: str) -> tuple[int, int]:
        """The least and the greatest total of a cost over all assignments."""
        d = COSTS.index(name)
        columns = [c[list(k), d] for c, k in zip(self.costs, self.kept, strict=True)]
        return int(sum(c.min() for c in columns)), int(sum(c.max() for c in columns))

    def derivation(self, choices: Sequence[int]) -> Derivation:
        """The candidate that gives site i the option choices[i]."""
        options = self.options
        parts = [
            f"{options[c].before}{site.name}{options[c].after}" for c, site in zip(choices, self.sites, strict=True)
        ]
        canonical = [
            f"{site.name}:{options[c].label}" for c, site in zip(choices, self.sites, strict=True) if c != self._alone
        ]
        return Derivation((" " if self.grammar.spaced else "").join(parts), key_of(" ".join(canonical)), tuple(choices))

    def totals(self, choices: Sequence[int]) -> Ints:
        """(size, adapter parameters, FLOPs per row)."""
        return np.asarray(self._all_costs[self._places, list(choices)].sum(axis=0), np.int64)

    def _inside(self, totals: Ints) -> bool:
        return all(low <= total <= high for low, total, high in zip(self.low, totals.tolist(), self.high, strict=True))

    def meets(self, d: Derivation) -> bool:
        """Whether the candidate keeps the ranges and each site's limit."""
        return all(c in k for c, k in zip(d.choices, self.kept, strict=True)) and self._inside(self.totals(d.choices))

    def log_prob(self, d: Derivation) -> float:
        """Natural logarithm of the grammar's own probability, before any bound."""
        return math.fsum(self.options[c].log_p for c in d.choices)

    def size(self) -> int:
        """How many assignments keep the ranges; exact but for very large tables, see `budget.count`."""
        return count(self.ranges, [len(k) for k in self.kept])

    def parse(self, text: str) -> Derivation:
        """The candidate of a sentence; sites in any order, those left out are left alone."""
        check_sentence(text)
        assert self.grammar.site is not None
        found: dict[int, int] = {}
        at = self.sentences.skip(text, 0)
        while at < len(text):
            reading = self.sentences.read(text, self.grammar.site, at)
            name, place = reading.names[0]
            if name not in self._index:
                names = list(self._index)
                message = f"no module {shortened(name)!r} is bound{did_you_mean(name, names)} Bound: {listed(names, 6)}"
                raise sentence_error(text, place, message)
            site = self._index[name]
            if site in found:
                raise sentence_error(text, place, f"module {name} stands there twice: keep one")
            option = self._by_choices.get(reading.choices)
            if option is None:
                raise sentence_error(
                    text,
                    place,
                    f"module {name} has an option of probability 0, which is no part of the space",
                )
            if option not in self.kept[site]:
                raise self._too_wide(text, reading.choices, reading.places, option, self.sites[site])
            found[site] = option
            at = self.sentences.skip(text, reading.end)
        missing = [site.name for i, site in enumerate(self.sites) if i not in found]
        if missing and self._alone is None:
            raise sentence_error(
                text, len(text), f"no option is given for {listed(missing, 4)}, and the space has no `none`"
            )
        return self.derivation([found.get(i, self._alone or 0) for i in range(len(self.sites))])

    def _too_wide(
        self, text: str, choices: tuple[int, ...], places: tuple[int, ...], option: int, site: Site
    ) -> ValueError:
        chosen = self.options[option]
        place = places[choices.index(chosen.value)]
        ranks = self._ranks(self._index[site.name], chosen.family)
        limit = rank_limit(chosen, site)
        rank = chosen.arguments[0]
        if limit is None or rank <= limit:
            return sentence_error(
                text,
                place,
                f"rank {rank} of {site.name} is above the largest rank asked for; allowed here: {listed(ranks)}",
            )
        message = (
            f"rank {rank} is above the module's limit min(in, out) = {limit} of {site.name}; "
            f"allowed here: {listed(ranks)}"
        )
        return sentence_error(text, place, message)

    def _ranks(self, site: int, family: str) -> list[str]:
        return [
            str(self.options[i].arguments[0])
            for i in self.kept[site]
            if self.options[i].family == family and self.options[i].arguments
        ]

    def _drawn(self, rng: np.random.Generator, n: int) -> list[list[int]]:
        rows = self.table.sample(rng, n)
        return np.stack([np.asarray(k)[rows[:, i]] for i, k in enumerate(self.kept)], axis=1).tolist()  # type: ignore[no-any-return]

    def sample(self, rng: np.random.Generator, n: int) -> list[Derivation]:
        """`n` independent candidates."""
        return [self.derivation(choices) for choices in self._drawn(rng, n)] if n else []

    def enumerate(self) -> Iterator[Derivation]:
        """Every assignment within the ranges, the last site varying fastest."""
        count_, dims = len(self.sites), len(COSTS)
        least, most = np.zeros((count_ + 1, dims), np.int64), np.zeros((count_ + 1, dims), np.int64)
        for i in range(count_ - 1, -1, -1):
            columns = self.costs[i][list(self.kept[i])]
            least[i], most[i] = least[i + 1] + columns.min(axis=0), most[i + 1] + columns.max(axis=0)
        low, high = np.array(self.low), np.array(self.high)
        spent = np.zeros((count_ + 1, dims), np.int64)
        at, picked = [0], [0] * count_
        while at:
            i = len(at) - 1
            if at[i] == len(self.kept[i]):
                at.pop()
                if at:
                    at[-1] += 1
                continue
            picked[i] = self.kept[i][at[i]]
            spent[i + 1] = spent[i] + self.costs[i][picked[i]]
            possible = (spent[i + 1] + least[i + 1] <= high).all() and (spent[i + 1] + most[i + 1] >= low).all()
            if possible and i + 1 < count_:
                at.append(0)
                continue
            if possible:
                yield self.derivation(picked)
            at[i] += 1

    def mutate(self, d: Derivation, rng: np.random.Generator) -> Derivation:
        """One site takes another option; where the ranges forbid each, several sites are drawn anew
        together.
        """
        choices = list(d.choices)
        total = self.totals(choices)
        for i in rng.permutation(len(choices)).tolist():
            weights = self._weights_of_change(i, choices[i], total)
            if weights.any():
                choices[i] = self.kept[i][_pick(weights, rng)]
                return self.derivation(choices)
        return self._redrawn(choices, rng, {d.key})

    def _weights_of_change(self, i: int, current: int, total: Ints) -> NDArray[np.float64]:
        """Weights of the other options of a site that keep the ranges, the rest of the sentence being as it
        is.
        """
        after = self._kept_costs[i] + (total - self.costs[i][current])
        allowed = ((after >= self._least) & (after <= self._most)).all(axis=1) & (self._kept_options[i] != current)
        return np.where(allowed, self.weights[i], 0.0)

    def crossover(self, a: Derivation, b: Derivation, rng: np.random.Generator) -> Derivation:
        """Each site from one parent or the other; where the ranges break, a few sites are drawn anew."""
        differing = [i for i, (x, y) in enumerate(zip(a.choices, b.choices, strict=True)) if x != y]
        if len(differing) < 2:
            for _ in range(_TRIES):
                child = self.mutate(a, rng)
                if child.key != b.key:
                    return child
            return self._redrawn(list(a.choices), rng, {a.key, b.key})
        choices: list[int] = []
        for _ in range(_TRIES):
            from_b = set(np.array(differing)[rng.random(len(differing)) < 0.5].tolist())
            if not 0 < len(from_b) < len(differing):
                continue
            choices = [b.choices[i] if i in from_b else c for i, c in enumerate(a.choices)]
            if self._inside(self.totals(choices)) and all(c in k for c, k in zip(choices, self.kept, strict=True)):
                return self.derivation(choices)
        return self._redrawn(choices or list(a.choices), rng, {a.key, b.key})

    def repaired(self, choices: Sequence[int], rng: np.random.Generator) -> Derivation:
        """The candidate itself where it keeps the ranges, otherwise with a few sites drawn anew."""
        if self._inside(self.totals(choices)):
            return self.derivation(choices)
        return self._redrawn(list(choices), rng, set())

    def _redrawn(self, choices: list[int], rng: np.random.Generator, taken: set[str]) -> Derivation:
        """Draws 2, 4, 8, … random sites anew under what the ranges leave to them, until the result is new
        and valid.
        """
        fixed = [c if c in k else k[0] for c, k in zip(choices, self.kept, strict=True)]
        width = 2
        while width < len(fixed):
            for _ in range(4):
                child = self._with_new(fixed, sorted(rng.permutation(len(fixed))[:width].tolist()), rng)
                if child is not None and child.key not in taken:
                    return child
            width *= 2
        for _ in range(_TRIES):
            child = self.derivation(self._drawn(rng, 1)[0])
            if child.key not in taken:
                return child
        for child in self.enumerate():
            if child.key not in taken:
                return child
        raise ValueError(
            f"the space has no sentence other than {'the parent' if len(taken) == 1 else 'the parents'}: "
            "there is nothing to vary"
        )

    def _with_new(self, choices: list[int], places: list[int], rng: np.random.Generator) -> Derivation | None:
        chosen = set(places)
        rest = np.asarray(
            sum(
                (self.costs[i][c] for i, c in enumerate(choices) if i not in chosen),
                np.zeros(len(COSTS), np.int64),
            )
        )
        ranges = Ranges(
            [self.costs[i][list(self.kept[i])] for i in places],
            [low - r for low, r in zip(self.low, rest.tolist(), strict=True)],
            [high - r for high, r in zip(self.high, rest.tolist(), strict=True)],
        )
        table = BudgetTable(ranges, [self.weights[i] for i in places])
        if table.empty:
            return None
        for i, option in zip(places, table.sample(rng, 1)[0].tolist(), strict=True):
            choices[i] = self.kept[i][option]
        return self.derivation(choices)

    def adapters(self, d: Derivation) -> dict[str, Adapter]:
        """The adapter of each module that is not left alone, in model order."""
        return {
            site.name: self.options[c].adapter
            for site, c in zip(self.sites, d.choices, strict=True)
            if c != self._alone
        }

    def from_ranks(self, ranks: Mapping[str, int]) -> Derivation:
        """The candidate with these ranks in the first family that has them; modules not named, and rank 0,
        are left alone.
        """
        choices: list[int] = []
        unknown = [name for name in ranks if name not in self._index]
        if unknown:
            names = list(self._index)
            raise ValueError(
                f"no module {shortened(unknown[0])!r} is bound{did_you_mean(unknown[0], names)} Bound: "
                f"{listed(names, 6)}"
            )
        for i, site in enumerate(self.sites):
            rank = ranks.get(site.name, 0)
            found = (
                self._alone
                if rank == 0
                else next((o for o in self.kept[i] if self.options[o].arguments[:1] == (rank,)), None)
            )
            if found is None:
                raise ValueError(self._no_rank(i, rank))
            choices.append(found)
        return self.derivation(choices)

    def _no_rank(self, i: int, rank: int) -> str:
        site = self.sites[i]
        allowed = [str(self.options[o].arguments[0]) for o in self.kept[i] if self.options[o].arguments]
        if rank == 0:
            return f"module {site.name} has no rank, and the space has no `none`: give one of {listed(allowed)}"
        limit = min(site.out_features, site.in_features)
        above = f" (it is above the module's limit min(in, out) = {limit})" if rank > limit else ""
        return (
            f"rank {rank} is not allowed for module {site.name}{above}; allowed: {listed(allowed)}, or "
            "0 to leave it alone"
        )


def _pick(weights: NDArray[np.float64], rng: np.random.Generator) -> int:
    cumulative = np.cumsum(weights)
    return int((cumulative > rng.random() * cumulative[-1]).argmax())
