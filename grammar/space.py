"""A search space: the sentences of a file, under its bounds, for one base where it adapts one; here the spaces that are
made from another.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from archrank.grammar.analysis import analyse
from archrank.grammar.errors import EmptySpaceError, Lint, Place
from archrank.grammar.layer_writing import bound_grammar
from archrank.grammar.layers import DEFAULT_LENGTH, EncoderLayer, is_layered
from archrank.grammar.model import Grammar
from archrank.grammar.nearest import did_you_mean
from archrank.grammar.program import Program
from archrank.grammar.pruning import pruned
from archrank.grammar.signatures import Shape
from archrank.grammar.sites import Site, bound_sites, dropped
from archrank.grammar.space_core import checked_shape
from archrank.grammar.space_sentences import SpaceSentences
from archrank.grammar.writing import written

__all__ = ["Space"]

Range = tuple[float | None, float | None]


class Space(SpaceSentences):
    """A file's sentences. Made by `load`, `loads`, `bind` and `within`; never changes.

    `bounds` holds upper bounds and `floors` lower ones by name. A space of sites has to be bound to a base
    before anything but reading its file works on it.
    """

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

    def literal(self) -> Space:
        """The same sentences, each a candidate of its own: keys are those of the sentences, not of the canonical forms.

        For tables of measured networks, whose rows differ where the graphs are the same.
        """
        found = self._copy()
        found._literal = True
        return found

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
