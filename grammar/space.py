"""A search space: the sentences of a file, under its bounds, for one base where it adapts one."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archrank.grammar.analysis import Facts, analyse
from archrank.grammar.architecture import BYTES_PER_ELEMENT, Architecture
from archrank.grammar.canonical import canonical
from archrank.grammar.derivation import Derivation, key_of
from archrank.grammar.encoding import SiteEncoding, Slot, TreeEncoding
from archrank.grammar.errors import EmptySpaceError, Lint, Place
from archrank.grammar.fill import Limits
from archrank.grammar.layer_writing import bound_grammar
from archrank.grammar.layers import (
    DEFAULT_LENGTH,
    EncoderLayer,
    EnsembleChoice,
    LayerChoice,
    ensemble_of,
    is_layered,
    rank_values,
)
from archrank.grammar.model import Grammar
from archrank.grammar.nearest import did_you_mean
from archrank.grammar.paths import Paths, unrolled
from archrank.grammar.program import Program
from archrank.grammar.pruning import pruned
from archrank.grammar.signatures import Shape
from archrank.grammar.site_space import Sites
from archrank.grammar.sites import Adapter, Site, SiteOption, bound_sites, dropped
from archrank.grammar.skeleton import Skeleton, skeleton
from archrank.grammar.trees import Trees
from archrank.grammar.typed import TypedTrees
from archrank.grammar.writing import written

Range = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a sentence adds: weights, FLOPs (2 × multiply-adds) per row, bytes of the weights in fp32."""

    params: int
    adapter_params: int
    flops: int
    bytes: int


class Space:
    """A file's sentences. Made by `load`, `loads`, `bind` and `within`; never changes.

    `bounds` holds upper bounds and `floors` lower ones by name. A space of sites has to be bound to a base
    before anything but reading its file works on it.
    """

    def __init__(
        self, name: str, path: Path | None, text: str,
        grammar: Grammar, facts: Facts, program: Program | None, lints: tuple[Lint, ...],
        bounds: Mapping[str, float], floors: Mapping[str, float], options: tuple[SiteOption, ...] = (),
        sites: tuple[Site, ...] = (), kept: tuple[tuple[int, ...], ...] = (), shape: Shape | None = None,
    ) -> None:  # fmt: skip
        self.name, self.path, self.text, self.lints = name, path, text, lints
        self.bounds, self.floors, self.sites = dict(bounds), dict(floors), sites
        self._grammar, self._facts, self._program = grammar, facts, program
        self._options, self._kept, self._shape = options, kept, shape or grammar.settings.input
        self.layers: dict[str, EncoderLayer] = {}
        self._engine: Trees | Sites | None = None
        self._coder: SiteEncoding | TreeEncoding | None = None
        self._unrolled: list[Paths | None] = []
        self._literal = False

    def __repr__(self) -> str:
        """Name, sites and bounds."""
        sites = f", {len(self.sites)} sites" if self.sites else ""
        return f"Space({self.name!r}{sites}, bounds={self.bounds})"

    @property
    def is_site_space(self) -> bool:
        """Whether its sentences give adapters to the modules of a base."""
        return self._grammar.site is not None and not is_layered(self._grammar)

    @property
    def is_layer_space(self) -> bool:
        """Whether its sentences cut and adapt the layers of a pretrained encoder (`target_modules = "all-layers"`)."""
        return bool(self.layers) or is_layered(self._grammar)

    @property
    def has_split(self) -> bool:
        """Whether it is a space over layers with ensembles: members that share the layers below a split."""
        return self._grammar.split is not None or (bool(self.layers) and "fork" in self.op_names())

    @property
    def needs_binding(self) -> bool:
        """Whether it adapts a base and has not been bound to one."""
        return is_layered(self._grammar) or (self.is_site_space and not self.sites)

    @property
    def target_modules(self) -> str | None:
        """The file's `target_modules`, None where it adapts nothing."""
        return self._grammar.settings.target_modules

    @property
    def is_architecture_space(self) -> bool:
        """Whether its sentences are networks: the file states an input, and each alias names an op."""
        return self._program is not None

    @property
    def input(self) -> tuple[int, ...] | None:
        """The shape of the input that sentences are made for, without the batch: the file's, or `with_input`'s."""
        return self._shape

    @property
    def families(self) -> tuple[str, ...]:
        """The adapter families of a space of sites, in the file's order."""
        return tuple(dict.fromkeys(option.family for option in self._options))

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that a site may take in any family, ascending; () where there are none."""
        return tuple(sorted({option.adapter.rank for option in self._options} - {0}))

    @property
    def site_options(self) -> tuple[SiteOption, ...]:
        """What a site can take, in the file's order: the choices of a space of sites count these; () elsewhere."""
        return self._options

    @property
    def is_recursive(self) -> bool:
        """Whether a rule can hold itself, so that only a bound ends its sentences."""
        return bool(self._facts.recursive)

    @property
    def is_finite(self) -> bool:
        """Whether `size()` and `enumerate()` come to an end."""
        if self._grammar.site is not None:
            return True
        trees = self.trees()
        return trees.high is not None or trees.skeleton.order is not None

    def bind(self, shapes: Mapping[str, tuple[int, int]], max_rank: int | None = None) -> Space:
        """The space for one base: one site per module {name: (out_features, in_features)}, in the given
        order.

        Ranks above min(in, out) of a module, or above `max_rank`, are left out there; the former with a
        remark in `lints`. Raises ValueError where a name or shape is wrong, SpaceError where no rank of a
        family fits anywhere, EmptySpaceError where the file's bounds leave no sentence.
        """
        if is_layered(self._grammar):
            raise ValueError(f"{self.name} cuts the layers of a base: call bind_layers({{name: EncoderLayer(…)}})")
        if not self.is_site_space:
            raise ValueError(f"{self.name} adapts no base: only a file with //@ target_modules can be bound")
        sites = bound_sites(self._grammar, shapes)
        kept, lints = dropped(self._grammar, self._options, sites, max_rank)
        known = [lint for lint in self.lints if lint.code != "rank-above-limit"]
        found = self._copy(lints=(*known, *lints), sites=sites, kept=kept)
        found._refuse_empty("the file's bounds")
        return found

    @property
    def layer_ranks(self) -> tuple[int, ...]:
        """The ranks that the adapters of a space over layers may have, ascending."""
        return rank_values(self._grammar)

    def bind_layers(
        self, layers: Mapping[str, EncoderLayer], length: int = DEFAULT_LENGTH, max_rank: int | None = None
    ) -> Space:
        """The space for one pretrained encoder: its layers by name, in model order; FLOPs are at `length` tokens.

        Ranks above `max_rank` are left out.

        Raises ValueError where the file is none for layers or a name or size is wrong, EmptySpaceError where the
        file's bounds leave no sentence.
        """
        if not is_layered(self._grammar):
            raise ValueError(
                f'{self.name} cuts no layers: only a file with //@ target_modules = "all-layers" takes bind_layers'
            )
        grammar = bound_grammar(self._grammar, layers, length, max_rank)
        facts, _ = analyse(grammar)
        found = Space(
            self.name, self.path, self.text, grammar, facts, Program(grammar), self.lints, self.bounds, self.floors
        )
        found.layers = dict(layers)
        return found

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

    def _copy(
        self,
        *,
        grammar: Grammar | None = None,
        lints: tuple[Lint, ...] | None = None,
        bounds: Mapping[str, float] | None = None,
        floors: Mapping[str, float] | None = None,
        sites: tuple[Site, ...] | None = None,
        kept: tuple[tuple[int, ...], ...] | None = None,
        shape: Shape | None = None,
    ) -> Space:
        """The same space with some of its parts replaced."""
        found = Space(
            self.name, self.path, self.text, grammar or self._grammar, self._facts, self._program,
            self.lints if lints is None else lints,
            self.bounds if bounds is None else bounds, self.floors if floors is None else floors,
            self._options, self.sites if sites is None else sites, self._kept if kept is None else kept,
            shape or self._shape,
        )  # fmt: skip
        found.layers = dict(self.layers)
        found._literal = self._literal
        return found

    def literal(self) -> Space:
        """The same sentences, each a candidate of its own: keys are those of the sentences, not of the canonical forms.

        For tables of measured networks, whose rows differ where the graphs are the same.
        """
        found = self._copy()
        found._literal = True
        return found

    @property
    def is_literal(self) -> bool:
        """Whether sentences that write one graph are told apart, see `literal`."""
        return self._literal and self._program is not None

    def graph_key(self, d: Derivation) -> str:
        """The key of the canonical form: in a literal space equal for sentences that write one graph; else `d.key`."""
        if not self.is_literal:
            return d.key
        assert self._program is not None
        return key_of(canonical(self._program, d.choices))

    def with_input(self, shape: Sequence[int]) -> Space:
        """The same architectures for another input, (channels, height, width) or (length, width), without the batch.

        Raises ValueError where the space has no architectures or the shape is none.
        """
        self._architectures("with_input")
        return self._copy(shape=checked_shape(shape))

    def fragment(self, rule: str) -> Space:
        """The sentences of one rule, for a part of an architecture: `space.fragment("module").parse("norm")`.

        The bounds hold for the fragment alone. Raises ValueError where there is no such rule (near names).
        """
        grammar = self._grammar
        names = [name for name, terminal in zip(grammar.names, grammar.terminal, strict=True) if not terminal]
        if self.is_site_space or rule not in names:
            hint = "a space of sites has no fragments" if self.is_site_space else f"rules: {', '.join(names)}"
            raise ValueError(f"fragment({rule!r}): no such rule{did_you_mean(rule, names)} {hint}")
        if self._program is not None and self._program.role(rule) != "op":
            raise ValueError(f"fragment({rule!r}): the rule gives a {self._program.role(rule)}, no architecture")
        return self._copy(grammar=replace(grammar, start=grammar.names.index(rule)))

    def within(
        self,
        *,
        size: Range | None = None,
        depth: Range | None = None,
        params: Range | None = None,
        adapter_params: Range | None = None,
        flops: Range | None = None,
        activation_bytes: Range | None = None,
    ) -> Space:
        """A tightened copy: each range is (low, high), both included, None for open.

        Sampling, mutation, crossover, counting and decoding keep both ends; an architecture's depth, params, flops and
        activation_bytes have an upper end only, and counting leaves them and the shapes out. Raises EmptySpaceError
        where no sentence does, ValueError where a range is malformed or the space has no such cost.
        """
        asked = {
            "size": size,
            "depth": depth,
            "params": params,
            "adapter_params": adapter_params,
            "flops": flops,
            "activation_bytes": activation_bytes,
        }
        bounds, floors = dict(self.bounds), dict(self.floors)
        for name, given in asked.items():
            if given is None:
                continue
            low, high = _range(name, given)
            if name not in self.costs:
                raise ValueError(
                    f"within({name}=…): sentences of {self.name} have no {name}; {', '.join(self.costs)} are known"
                )
            if low > 0 and not self.is_site_space and name != "size":
                raise ValueError(f"within({name}=…): only the upper end can be given, (None, high)")
            bounds[name] = min(bounds.get(name, math.inf), high)
            floors[name] = max(floors.get(name, 0.0), low)
        bounds = {name: value for name, value in bounds.items() if math.isfinite(value)}
        floors = {name: value for name, value in floors.items() if value > 0}
        found = self._copy(bounds=bounds, floors=floors)
        if not found.needs_binding:
            found._refuse_empty(
                ", ".join(f"{name} in {_shown(given)}" for name, given in asked.items() if given is not None)
            )
        return found

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

    def without(self, productions: Collection[int]) -> Space:
        """The space without some productions (numbers as in `Derivation.choices`): they get probability 0, the others
        of their rules keep their proportions. Sentences that hold them still parse.

        Raises ValueError where a rule would lose its last alternative, or in a space of sites.
        """
        self._refuse_sites("without")
        grammar = pruned(self._grammar, productions)
        facts, _ = analyse(grammar)
        program = None if self._program is None else Program(grammar)
        found = Space(
            self.name, self.path, self.text, grammar, facts, program, self.lints, self.bounds, self.floors,
            shape=self._shape,
        )  # fmt: skip
        found.layers = dict(self.layers)
        found._refuse_empty("what is left")
        return found

    def _refuse_sites(self, what: str) -> None:
        if self._grammar.site is not None:
            raise ValueError(f"{what}: {self.name} is a space of sites, or not bound to a base; it has no productions")

    def _refuse_empty(self, asked: str) -> None:
        engine = self._sites() if self.is_site_space else self.trees()
        if engine.is_empty():
            place = Place(1, 1)
            for bound in self._grammar.settings.bounds:
                place = bound.place
            raise EmptySpaceError(
                self._grammar.file, place.line, place.column, f"no sentence meets {asked}{self._possible()}"
            )

    def _possible(self) -> str:
        """What is possible at all, for the message of an empty space."""
        if not self.is_site_space:
            smallest = self._facts.smallest[self._grammar.start]
            return f"; the smallest sentence has size {smallest}"
        low, high = self._sites().least("adapter_params")
        return f"; adapter_params of this base lie between {low:,} and {high:,}"

    def _sites(self) -> Sites:
        if self.needs_binding:
            raise ValueError(
                f"{self.name} adapts a base and is not bound to one: call space.bind({{module: "
                f"(out_features, in_features)}}) first, or give --base"
            )
        if self._engine is None:
            ranges: dict[str, tuple[int, int]] = {}
            for name in ("size", "params", "adapter_params", "flops"):
                key = "adapter_params" if name == "params" else name
                old = ranges.get(key, (0, 2**62))
                low, high = (
                    math.ceil(self.floors.get(name, 0)),
                    math.floor(min(self.bounds.get(name, 2.0**62), 2.0**62)),
                )
                ranges[key] = (max(old[0], low), min(old[1], high))
            self._engine = Sites(self._grammar, self._facts, self._options, self.sites, self._kept, ranges)
        assert isinstance(self._engine, Sites)
        return self._engine

    def trees(self) -> Trees:
        """The engine of a general space, made once; not part of the interface."""
        if self._engine is None:
            high = math.floor(self.bounds["size"]) if "size" in self.bounds else None
            low = math.ceil(self.floors.get("size", 0))
            uniform = self._grammar.settings.uniform_size
            if self._program is not None and self._shape is not None:
                self._engine = TypedTrees(
                    self._grammar, self._facts, self._skeleton(), (low, high), uniform,
                    self._program, self._shape, self._limits(), self._literal,
                )  # fmt: skip
            else:
                self._engine = Trees(self._grammar, self._facts, self._skeleton(), low, high, uniform)
        assert isinstance(self._engine, Trees)
        return self._engine

    def _limits(self) -> Limits:
        of = self.bounds.get
        elements = of("activation_bytes", math.inf) / BYTES_PER_ELEMENT
        return Limits(of("params", math.inf), of("flops", math.inf), elements, of("adapter_params", math.inf))

    def _skeleton(self) -> Skeleton:
        depth = math.floor(self.bounds["depth"]) if "depth" in self.bounds else None
        found = skeleton(self._grammar, depth)
        if found is None:
            raise EmptySpaceError(self._grammar.file, 1, 1, f"no sentence has a depth of at most {depth}")
        return found

    def _any(self) -> Trees | Sites:
        if is_layered(self._grammar):
            raise ValueError(
                f"{self.name} adapts a base and is not bound to one: call space.bind_layers({{layer: "
                "EncoderLayer(hidden, heads, head, ffn)}) first, or give --base"
            )
        return self._sites() if self.is_site_space else self.trees()

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

    @property
    def costs(self) -> tuple[str, ...]:
        """What `within` can bound."""
        if self.is_site_space:
            return ("size", "params", "adapter_params", "flops")
        if self.is_layer_space:
            return ("size", "depth", "params", "adapter_params", "flops", "activation_bytes")
        return ("size", "depth", "params", "flops", "activation_bytes") if self._program else ("size", "depth")

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

    def op_names(self) -> tuple[str, ...]:
        """The ops that leave a node in an architecture of this space, in the file's order; () in other spaces."""
        return () if self._program is None else self._program.op_names()

    def _architectures(self, what: str) -> Shape:
        if self._program is None or self._shape is None:
            raise ValueError(self._no_architectures(what))
        return self._shape

    def _no_architectures(self, what: str) -> str:
        return f"{what}: {self.name} has no architectures; add //@ input = 3x64x64 and aliases that name ops"

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

    def _of_sites(self, what: str) -> Sites:
        if not self.is_site_space:
            raise ValueError(f"{what}: {self.name} adapts no base")
        return self._sites()

    def _own(self, d: Derivation) -> Derivation:
        """The derivation, where its choices can be of this space; TypeError or ValueError otherwise."""
        if not isinstance(d, Derivation):
            raise TypeError(f"a Derivation is needed, not {type(d).__name__}; space.parse(text) makes one")
        count = len(self._options) if self.is_site_space else len(self._grammar.productions)
        wrong = len(d.choices) != len(self.sites) if self.is_site_space and self.sites else not d.choices
        if wrong or not (min(d.choices) >= 0 and max(d.choices) < count):
            raise ValueError(f"{d!r} is not a sentence of {self.name}: parse its text there")
        return d

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

    def production_counts(self, d: Derivation) -> NDArray[np.int64]:
        """(productions,): how often a candidate uses each production of the file."""
        counts = np.zeros(len(self._grammar.productions), np.int64)
        chosen = [c for o in d.choices for c in self._options[o].choices] if self.is_site_space else d.choices
        np.add.at(counts, list(chosen), 1)
        return counts

    @property
    def probabilities(self) -> tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]:
        """For each rule its productions (their numbers) and their probabilities."""
        productions = self._grammar.productions
        return tuple((ways, tuple(productions[i].p for i in ways)) for ways in self._grammar.by_head)

    def with_probabilities(self, p: Mapping[int, float]) -> Space:
        """The same sentences with other probabilities {production: p}; those not named keep theirs.

        Raises ValueError where a p is not in (0, 1] or a rule's do not sum to 1.
        """
        productions = list(self._grammar.productions)
        for i, value in p.items():
            if not (0 < value <= 1 and productions[i].p > 0):
                raise ValueError(f"with_probabilities: production {i} ({productions[i].label}) cannot have p = {value}")
            productions[i] = replace(productions[i], p=float(value), log_p=math.log(value))
        for ways in self._grammar.by_head:
            total = math.fsum(productions[i].p for i in ways)
            if ways and abs(total - 1) > 1e-6:
                raise ValueError(
                    f"with_probabilities: those of {self._grammar.names[productions[ways[0]].head]} sum to {total:g}"
                )
        found = self._copy(grammar=replace(self._grammar, productions=tuple(productions)))
        found._options = tuple(
            replace(o, log_p=math.fsum(productions[c].log_p for c in o.choices)) for o in self._options
        )
        if self._program is not None:
            found._program = Program(found._grammar)
        return found

    def to_text(self) -> str:
        """The space as a file, with its probabilities; ValueError for one that is bound to the layers of a base."""
        if self.is_layer_space:
            raise ValueError(f"{self.name}: a space over the layers of a base cannot be written back")
        bounds = {bound.name: bound.value for bound in self._grammar.settings.bounds}
        return written(self._grammar, [q.p for q in self._grammar.productions], bounds, self._shape)

    def paths(self) -> Paths | None:
        """The candidates as rows of integers, for strategies that vary whole populations; None in recursive spaces and
        in those of more than 600 places.
        """
        if not self._unrolled:
            self._unrolled = [unrolled(self._any())]
        return self._unrolled[0]

    def _encoder(self) -> SiteEncoding | TreeEncoding:
        if self._coder is None:
            self._coder = SiteEncoding(self._sites()) if self.is_site_space else TreeEncoding(self.trees())
        return self._coder


def checked_shape(shape: Sequence[int]) -> Shape:
    """The shape as a tuple; ValueError where it is none."""
    found = tuple(shape)
    if not found or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**31 for n in found):
        raise ValueError(
            f"an input shape is (channels, height, width) or (length, width), whole numbers above 0, not {found!r}"
        )
    return found


def _range(name: str, given: Range) -> tuple[float, float]:
    if len(given) != 2:
        raise ValueError(f"within({name}={given!r}): a range is (low, high)")
    low = 0.0 if given[0] is None else float(given[0])
    high = math.inf if given[1] is None else float(given[1])
    if math.isnan(low) or math.isnan(high) or low > high:
        raise ValueError(f"within({name}={given!r}): low is at most high")
    return low, high


def _shown(given: Range) -> str:
    low, high = ("any" if end is None else f"{end:,.10g}" for end in given)
    return f"[{low}, {high}]"
