"""The sentences of a space: counted, drawn, read, varied, priced, encoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archrank.grammar.architecture import BYTES_PER_ELEMENT, Architecture
from archrank.grammar.canonical import canonical
from archrank.grammar.derivation import Derivation, key_of
from archrank.grammar.encoding import SiteEncoding, Slot, TreeEncoding
from archrank.grammar.equal_layers import equal_layers
from archrank.grammar.layers import EnsembleChoice, LayerChoice, ensemble_of
from archrank.grammar.paths import Paths, unrolled
from archrank.grammar.sites import Adapter
from archrank.grammar.space_core import SpaceCore, checked_shape
from archrank.grammar.typed import TypedTrees

__all__ = ["Cost", "SpaceSentences"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a sentence adds: weights, FLOPs (2 × multiply-adds) per row, bytes of the weights in fp32."""

    params: int
    adapter_params: int
    flops: int
    bytes: int


class SpaceSentences(SpaceCore):
    """What is asked of a space's candidates."""

    def size(self) -> int:
        """How many sentences there are within the bounds, exactly (a base of hundreds of modules whose
        costs share no divisor: to ten digits).

        Raises ValueError where there is no end of them, or where the space has to be bound first.
        """
        return self._any().size()

    def enumerate(self) -> Iterator[Derivation]:
        """Every sentence within the bounds once, in the file's order."""
        return self._any().enumerate()

    def sample(self, rng: np.random.Generator, n: int = 1) -> list[Derivation]:
        """`n` independent sentences, exactly from the file's probabilities conditioned on the bounds.

        Under `//@ prior size = uniform` the sizes are uniform first.
        """
        if n < 0:
            raise ValueError(f"sample(n={n}): n is not negative")
        return self._any().sample(rng, n)

    def parse(self, text: str) -> Derivation:
        """The candidate of a sentence; SpaceError at line 1, column of the token that does not fit.

        The bounds are not asked for (`meets` does); a rank above a module's limit is an error.
        """
        return self._any().parse(text)

    def meets(self, d: Derivation) -> bool:
        """Whether a candidate keeps the bounds."""
        return self._any().meets(self._own(d))

    def log_prob(self, d: Derivation) -> float:
        """Natural logarithm of the probability that the file's own numbers give, before any bound."""
        return self._any().log_prob(self._own(d))

    def mutate(self, d: Derivation, rng: np.random.Generator) -> Derivation:
        """A valid neighbour within the bounds, never equal to `d`; ValueError where the space has no other
        sentence.
        """
        return self._any().mutate(self._own(d), rng)

    def crossover(self, a: Derivation, b: Derivation, rng: np.random.Generator) -> Derivation:
        """A valid child within the bounds, never equal to a parent; ValueError where the space has no other
        sentence.
        """
        return self._any().crossover(self._own(a), self._own(b), rng)

    def elaborate(self, d: Derivation, input: Sequence[int] | None = None) -> Architecture:
        """The graph of a sentence: ops with shapes and costs, for the space's input or another one.

        Raises SpaceError at line 1, column of the op that does not fit its input (a sampled sentence fits the space's
        own input, not any other), ValueError where the file has no `//@ input`.
        """
        shape = self._architectures("elaborate") if input is None else checked_shape(input)
        engine = self.trees()
        if not isinstance(engine, TypedTrees):
            raise ValueError(self._no_architectures("elaborate"))
        return engine.elaborate(self._own(d), shape)

    def cost(self, d: Derivation) -> Cost:
        """What the sentence adds to its base, or costs as an architecture. Raises ValueError in a space whose sentences
        have no cost of their own.
        """
        if self._program is not None:
            found = self.elaborate(d)
            return Cost(found.params, found.adapter_params, found.flops, found.params * BYTES_PER_ELEMENT)
        if not self.is_site_space:
            raise ValueError(
                f"sentences of {self.name} have no cost: the file has neither //@ target_modules nor //@ input"
            )
        _, params, flops = self._sites().totals(self._own(d).choices).tolist()
        return Cost(params, params, flops, params * BYTES_PER_ELEMENT)

    def adapters(self, d: Derivation) -> dict[str, Adapter]:
        """The adapter of each module, in model order; modules left alone are absent."""
        return self._of_sites("adapters").adapters(self._own(d))

    def from_ranks(self, ranks: Mapping[str, int]) -> Derivation:
        """The candidate with these ranks; modules not named, and rank 0, are left alone.

        Raises ValueError on an unknown module (near names) or a rank that is not allowed there (those that
        are).
        """
        return self._of_sites("from_ranks").from_ranks(ranks)

    def layer_choices(self, d: Derivation) -> dict[str, LayerChoice]:
        """What a sentence of a space over layers does to each of them. Raises ValueError in any other space, and for an
        ensemble.
        """
        found = self.ensemble_choices(d)
        if len(found.members) > 1:
            raise ValueError(
                f"layer_choices: {d!r} is an ensemble of {len(found.members)} members; ensemble_choices gives them"
            )
        return found.members[0]

    def ensemble_choices(self, d: Derivation) -> EnsembleChoice:
        """The members of a sentence of a space over layers and how many layers they share; one that is no ensemble is
        its only member. Raises ValueError in any other space.
        """
        if not self.layers:
            raise ValueError(f"layer_choices: {self.name} is not bound to the layers of a base")
        return ensemble_of(self.elaborate(d), self.layers)

    def equal_layers(self) -> list[Derivation]:
        """Sentences over layers that people choose without a search, within the bounds: all layers cut alike (heads and
        channels at one share where the file has the same for both, adapters of one rank); whole layers at the bottom
        with all above them dropped; ensembles of alike layers whose members differ in that rank. Raises ValueError in
        any other space.
        """
        if not self.layers:
            raise ValueError(f"equal_layers: {self.name} is not bound to the layers of a base")
        return equal_layers(self, self._grammar, self._any().derivation)

    def graph_key(self, d: Derivation) -> str:
        """The key of the canonical form: in a literal space equal for sentences that write one graph; else `d.key`."""
        if not self.is_literal:
            return d.key
        assert self._program is not None
        return key_of(canonical(self._program, d.choices))

    def choices(self, d: Derivation) -> frozenset[int]:
        """The productions of a sentence that were chosen among several: what `without` can take out. Raises ValueError
        in a space of sites.
        """
        self._refuse_sites("choices")
        by_head, productions = self._grammar.by_head, self._grammar.productions
        return frozenset(
            i for i in self._own(d).choices if sum(productions[j].p > 0 for j in by_head[productions[i].head]) > 1
        )

    def siblings(self, production: int) -> tuple[int, ...]:
        """The productions that stand at the same place of the grammar and are in the space, itself among them."""
        self._refuse_sites("siblings")
        grammar = self._grammar
        return tuple(i for i in grammar.by_head[grammar.productions[production].head] if grammar.productions[i].p > 0)

    def production_name(self, production: int) -> str:
        """A production for people: its rule and what it chooses there, `FFN@encoder.layer.0 = 25%`."""
        self._refuse_sites("production_name")
        found = self._grammar.productions[production]
        return f"{self._grammar.names[found.head]} = {found.label}"

    def production_counts(self, d: Derivation) -> NDArray[np.int64]:
        """(productions,): how often a candidate uses each production of the file."""
        counts = np.zeros(len(self._grammar.productions), np.int64)
        chosen = [c for o in d.choices for c in self._options[o].choices] if self.is_site_space else d.choices
        np.add.at(counts, list(chosen), 1)
        return counts

    def encoding(self) -> tuple[Slot, ...]:
        """The fixed flat encoding: one categorical slot per decision; slots that a sentence does not reach
        are ignored.

        Raises ValueError where the space is unbounded or would need too many slots.
        """
        return self._encoder().slots

    def encode(self, d: Derivation) -> list[int]:
        """The slot values of a candidate; `decode(encode(d)) == d` for every candidate within the bounds."""
        return self._encoder().encode(self._own(d))

    def decode(self, values: Sequence[int]) -> Derivation:
        """The candidate of slot values, always within the bounds; the same values always give the same
        candidate.
        """
        return self._encoder().decode(values)

    def _encoder(self) -> SiteEncoding | TreeEncoding:
        if self._coder is None:
            self._coder = SiteEncoding(self._sites()) if self.is_site_space else TreeEncoding(self.trees())
        return self._coder

    def paths(self) -> Paths | None:
        """The candidates as rows of integers, for strategies that vary whole populations; None in recursive spaces and
        in those of more than 600 places.
        """
        if not self._unrolled:
            self._unrolled = [unrolled(self._any())]
        return self._unrolled[0]
