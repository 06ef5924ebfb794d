"""What a search space is: its parts, what they say of it, and the engine that counts and draws its sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from archrank.grammar.analysis import Facts
from archrank.grammar.architecture import BYTES_PER_ELEMENT
from archrank.grammar.derivation import Derivation
from archrank.grammar.encoding import SiteEncoding, TreeEncoding
from archrank.grammar.errors import EmptySpaceError, Lint
from archrank.grammar.fill import Limits
from archrank.grammar.layers import EncoderLayer, is_layered, rank_values
from archrank.grammar.model import Grammar
from archrank.grammar.paths import Paths
from archrank.grammar.program import Program
from archrank.grammar.signatures import Shape
from archrank.grammar.site_space import Sites
from archrank.grammar.sites import Site, SiteOption
from archrank.grammar.skeleton import Skeleton, skeleton
from archrank.grammar.trees import Trees
from archrank.grammar.typed import TypedTrees

__all__ = ["SpaceCore", "checked_shape"]


class SpaceCore:
    """A file's sentences under bounds; `Space` is the whole of it."""

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
    def layer_ranks(self) -> tuple[int, ...]:
        """The ranks that the adapters of a space over layers may have, ascending."""
        return rank_values(self._grammar)

    @property
    def site_options(self) -> tuple[SiteOption, ...]:
        """What a site can take, in the file's order: the choices of a space of sites count these; () elsewhere."""
        return self._options

    @property
    def costs(self) -> tuple[str, ...]:
        """What `within` can bound."""
        if self.is_site_space:
            return ("size", "params", "adapter_params", "flops")
        if self.is_layer_space:
            return ("size", "depth", "params", "adapter_params", "flops", "activation_bytes")
        return ("size", "depth", "params", "flops", "activation_bytes") if self._program else ("size", "depth")

    def op_names(self) -> tuple[str, ...]:
        """The ops that leave a node in an architecture of this space, in the file's order; () in other spaces."""
        return () if self._program is None else self._program.op_names()

    @property
    def probabilities(self) -> tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]:
        """For each rule its productions (their numbers) and their probabilities."""
        productions = self._grammar.productions
        return tuple((ways, tuple(productions[i].p for i in ways)) for ways in self._grammar.by_head)

    @property
    def is_literal(self) -> bool:
        """Whether sentences that write one graph are told apart, see `literal`."""
        return self._literal and self._program is not None

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

    def _any(self) -> Trees | Sites:
        if is_layered(self._grammar):
            raise ValueError(
                f"{self.name} adapts a base and is not bound to one: call space.bind_layers({{layer: "
                "EncoderLayer(hidden, heads, head, ffn)}) first, or give --base"
            )
        return self._sites() if self.is_site_space else self.trees()

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

    def _own(self, d: Derivation) -> Derivation:
        """The derivation, where its choices can be of this space; TypeError or ValueError otherwise."""
        if not isinstance(d, Derivation):
            raise TypeError(f"a Derivation is needed, not {type(d).__name__}; space.parse(text) makes one")
        count = len(self._options) if self.is_site_space else len(self._grammar.productions)
        wrong = len(d.choices) != len(self.sites) if self.is_site_space and self.sites else not d.choices
        if wrong or not (min(d.choices) >= 0 and max(d.choices) < count):
            raise ValueError(f"{d!r} is not a sentence of {self.name}: parse its text there")
        return d

    def _of_sites(self, what: str) -> Sites:
        if not self.is_site_space:
            raise ValueError(f"{what}: {self.name} adapts no base")
        return self._sites()

    def _refuse_sites(self, what: str) -> None:
        if self._grammar.site is not None:
            raise ValueError(f"{what}: {self.name} is a space of sites, or not bound to a base; it has no productions")

    def _architectures(self, what: str) -> Shape:
        if self._program is None or self._shape is None:
            raise ValueError(self._no_architectures(what))
        return self._shape

    def _no_architectures(self, what: str) -> str:
        return f"{what}: {self.name} has no architectures; add //@ input = 3x64x64 and aliases that name ops"


def checked_shape(shape: Sequence[int]) -> Shape:
    """The shape as a tuple; ValueError where it is none."""
    found = tuple(shape)
    if not found or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**31 for n in found):
        raise ValueError(
            f"an input shape is (channels, height, width) or (length, width), whole numbers above 0, not {found!r}"
        )
    return found
