"""The options of one site of a base: every adapter that a sentence can give it, with its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from archrank.grammar import ops
from archrank.grammar.analysis import Facts
from archrank.grammar.errors import Lint, SpaceError, listed, shortened
from archrank.grammar.model import Grammar
from archrank.grammar.sentence import Sentences
from archrank.grammar.signatures import AdapterOp
from archrank.grammar.skeleton import Skeleton, skeleton
from archrank.grammar.trees import Trees

MOST_OPTIONS = 1024
COSTS = ("size", "adapter_params", "flops")


@dataclass(frozen=True, slots=True)
class Site:
    """One module of a base: its full name and its weight's shape (out, in)."""

    name: str
    out_features: int
    in_features: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a sentence gives a module; `rank` is 0 where the family has none."""

    family: str
    rank: int


@dataclass(frozen=True, slots=True)
class SiteOption:
    """One way to fill a site: productions in preorder, what the text says, and the adapter with its
    arguments.

    `value` is the production of the first argument, for messages, -1 where there is none.
    """

    choices: tuple[int, ...]
    before: str
    after: str
    label: str
    log_p: float
    size: int
    family: str
    arguments: tuple[int, ...]
    value: int

    @property
    def adapter(self) -> Adapter:
        """The family and its first argument."""
        return Adapter(self.family, self.arguments[0] if self.arguments else 0)


def site_options(grammar: Grammar, facts: Facts) -> tuple[SiteOption, ...]:
    """All options of the site rule, in the file's order; raises SpaceError where there are too many to
    hold.
    """
    assert grammar.site is not None
    place = grammar.places[grammar.site]
    sub = _site_skeleton(grammar)
    count = sub.count()
    if count is None or count > MOST_OPTIONS:
        found = "no end of" if count is None else f"{count:,}"
        message = (
            f"{shortened(grammar.names[grammar.site])} has {found} options; a site holds at most "
            f"{MOST_OPTIONS:,}: remove recursion or values"
        )
        raise SpaceError(grammar.file, place.line, place.column, message)
    trees, sentences = Trees(grammar, facts, sub, 0, None, False), Sentences(grammar, facts)
    return tuple(_option(grammar, sentences, choices) for choices in trees.choices())


def _site_skeleton(grammar: Grammar) -> Skeleton:
    """The skeleton of the site rule alone; the bound terminal has no options, so it is left out of the
    children.
    """
    assert grammar.site is not None
    productions = tuple(
        replace(
            p,
            children=tuple(c for c in p.children if c != grammar.bound),
            copies=tuple(m for c, m in zip(p.children, p.copies, strict=True) if c != grammar.bound),
        )
        for p in grammar.productions
    )
    found = skeleton(replace(grammar, productions=productions, start=grammar.site))
    assert found is not None
    return found


def _option(grammar: Grammar, sentences: Sentences, choices: Sequence[int]) -> SiteOption:
    productions = [grammar.productions[c] for c in choices]
    aliased = [p for p in productions if p.alias is not None]
    site = productions[0]
    if len(aliased) != 1:
        said = "several aliases" if aliased else "no alias"
        message = f'an option of a site has {said}: it names one adapter, `| "lora" "(" RANK ")" -> lora`'
        raise SpaceError(grammar.file, site.place.line, site.place.column, message)
    op = _adapter(aliased[0].alias or "")
    values = [(c, p) for c, p in zip(choices, productions, strict=True) if grammar.terminal[p.head]]
    arguments = []
    for _, value in values:
        if not (value.label.isascii() and value.label.isdigit() and len(value.label) <= 9 and int(value.label) > 0):
            message = (
                f'"{shortened(value.label)}" is no argument of {op.name}: a whole number above 0; a '
                'module left alone is written "none" -> none'
            )
            raise SpaceError(grammar.file, value.place.line, value.place.column, message)
        arguments.append(int(value.label))
    if len(arguments) != op.arguments:
        place = aliased[0].place
        message = f"{op.name} takes {op.arguments} numbers from terminals, this alternative gives {len(arguments)}"
        raise SpaceError(grammar.file, place.line, place.column, message)
    text = sentences.write(choices, grammar.site, name="\0")
    before, after = text.split("\0")
    label = "".join(after.split()).lstrip(":=")
    return SiteOption(
        tuple(choices), before, after, label,
        math.fsum(p.log_p for p in productions), sum(p.size for p in productions),
        op.name, tuple(arguments), values[0][0] if values else -1,
    )  # fmt: skip


def _adapter(name: str) -> AdapterOp:
    op = ops.load(name)
    assert isinstance(op, AdapterOp)
    return op


def fits(option: SiteOption, site: Site, max_rank: int | None) -> bool:
    """Whether the option's rank is within the module's limit and within `max_rank`."""
    top = rank_limit(option, site)
    if not option.arguments:
        return True
    return (top is None or option.arguments[0] <= top) and (max_rank is None or option.arguments[0] <= max_rank)


def rank_limit(option: SiteOption, site: Site) -> int | None:
    """The largest rank the module takes in this family; None where the family has no limit."""
    limit = _adapter(option.family).limit
    return None if limit is None else limit(site.out_features, site.in_features)


def option_cost(option: SiteOption, site: Site) -> tuple[int, int, int]:
    """(size, adapter parameters, FLOPs per row) of an option at a site."""
    op = _adapter(option.family)
    shape = (site.out_features, site.in_features, *option.arguments)
    return option.size, op.params(*shape), op.flops(*shape)


def bound_sites(grammar: Grammar, shapes: Mapping[str, tuple[int, int]]) -> tuple[Site, ...]:
    """The sites of named shapes (out, in), in the given order; raises ValueError on what cannot be one."""
    if not shapes:
        raise ValueError("bind needs at least one module: {name: (out_features, in_features)}")
    assert grammar.bound_regex is not None
    sites = []
    for name, shape in shapes.items():
        found = grammar.bound_regex.match(name)
        if found is None or found.end() != len(name):
            terminal = grammar.names[grammar.bound or 0]
            raise ValueError(
                f"module name {shortened(name)!r} is not a {terminal}, /{grammar.bound_regex.pattern}/: "
                f"change the terminal in {grammar.file}"
            )
        if len(shape) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**31 for n in shape):
            raise ValueError(
                f"module {shortened(name)!r}: its shape is (out_features, in_features), two whole numbers "
                f"above 0, not {shape!r}"
            )
        sites.append(Site(name, shape[0], shape[1]))
    return tuple(sites)


def dropped(
    grammar: Grammar, options: Sequence[SiteOption], sites: Sequence[Site], max_rank: int | None
) -> tuple[tuple[tuple[int, ...], ...], list[Lint]]:
    """The options that each site keeps, and remarks on those it loses.

    Raises SpaceError where a family keeps no option at any site, ValueError where a site keeps none.
    """
    kept = tuple(
        tuple(i for i, o in enumerate(options) if math.isfinite(o.log_p) and fits(o, site, max_rank)) for site in sites
    )
    alive = {options[i].family for of_site in kept for i in of_site}
    for option in options:
        if option.family not in alive and math.isfinite(option.log_p):
            raise _none_fits(grammar, [o for o in options if o.family == option.family], sites, max_rank)
    for site, of_site in zip(sites, kept, strict=True):
        if not of_site:
            raise ValueError(
                f"no option of the space fits module {site.name} of shape ({site.out_features}, "
                f"{site.in_features}): add smaller ranks or none"
            )
    return kept, _drop_lints(grammar, options, sites)


def _none_fits(grammar: Grammar, family: list[SiteOption], sites: Sequence[Site], max_rank: int | None) -> SpaceError:
    place = grammar.places[grammar.productions[family[0].value].head]
    widest = max(sites, key=lambda site: min(site.out_features, site.in_features))
    top = rank_limit(family[0], widest)
    said = f"the widest limit min(in, out) is {top}, of {shortened(widest.name)}"
    if max_rank is not None and (top is None or max_rank < top):
        said = f"the largest rank asked for is {max_rank}"
    ranks = listed([str(o.arguments[0]) for o in family])
    return SpaceError(
        grammar.file,
        place.line,
        place.column,
        f"no rank of {family[0].family} ({ranks}) fits a bound module: {said}; add smaller ranks",
    )


def _drop_lints(grammar: Grammar, options: Sequence[SiteOption], sites: Sequence[Site]) -> list[Lint]:
    lints = []
    for option in options:
        narrow = [site for site in sites if option.arguments and not fits(option, site, None)]
        if narrow:
            place = grammar.productions[option.value].place
            limits = sorted({rank_limit(option, site) or 0 for site in narrow})
            names = listed([site.name for site in narrow], 3)
            message = (
                f"rank {option.arguments[0]} is above min(in, out) = "
                f"{listed([str(n) for n in limits], 4)} of {names}, and is left out there"
            )
            lints.append(Lint(place.line, place.column, "rank-above-limit", message))
    return lints
