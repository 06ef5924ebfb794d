"""A candidate in words: its derivation with the probability of each choice, its ops and what each costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from archrank.grammar import Derivation, Space
from archrank.grammar.architecture import Architecture
from archrank.grammar.errors import shortened
from archrank.grammar.model import Grammar, Production
from archrank.grammar.sites import Site, SiteOption, option_cost
from archrank.grammar.workload import OpCost
from archrank.search.drawing.folding import merge
from archrank.search.drawing.picture import percent, share, shown_shape
from archrank.search.drawing.words import facts
from archrank.search.report.text import number

__all__ = ["lines", "ops"]

_DEEPEST, _MAIN = 40, 8


def ops(space: Space, d: Derivation, architecture: Architecture | None) -> list[dict[str, object]]:
    """What the sentence builds, for JSON: the ops of an architecture (inputs: places in this list, -1 its own input),
    or the adapters of a base with their module's (out, in) as shape; [] where sentences are neither.
    """
    if architecture is not None:
        return [
            {
                "op": op.op,
                "arguments": list(op.arguments),
                "inputs": list(op.inputs),
                "shape": list(op.shape),
                "params": op.params,
                "flops": op.flops,
            }
            for op in architecture.ops
        ]
    return [
        {
            "op": option.family,
            "arguments": list(option.arguments),
            "inputs": [],
            "shape": [site.out_features, site.in_features],
            "params": params,
            "flops": flops,
            "module": site.name,
        }
        for site, option, params, flops in adapters(space, d)
        if params
    ]


def adapters(space: Space, d: Derivation) -> Iterator[tuple[Site, SiteOption, int, int]]:
    """Each module of the base with what the sentence gives it, its parameters, its FLOPs per row."""
    for site, choice in zip(space.sites, d.choices if space.is_site_space else (), strict=True):
        option = space.site_options[choice]
        _, params, flops = option_cost(option, site)
        yield site, option, params, flops


def lines(space: Space, d: Derivation, architecture: Architecture | None) -> Iterator[str]:
    """The explanation for people."""
    yield shortened(d.text, 300)
    yield f"key {d.key}"
    if not space.meets(d):
        bounds = ", ".join(f"{name} <= {value:,.0f}" for name, value in space.bounds.items())
        yield f"outside the bounds of {space.name}, so never sampled: {bounds}"
    yield ""
    if space.is_site_space:
        yield from _site_lines(space, d)
        return
    yield from _derivation(space, d)
    if architecture is not None:
        yield ""
        yield from _costs(architecture)


def _derivation(space: Space, d: Derivation) -> Iterator[str]:
    """One line a choice, indented as the sentence nests; a rule that leaves no choice is passed over."""
    grammar = space.trees().grammar
    yield "     p  derivation"
    stack = [0]
    for choice in d.choices:
        production, depth = grammar.productions[choice], stack.pop()
        forced = production.alias is None and production.p == 1
        stack.extend([depth + (not forced)] * len(production.children))
        if not forced:
            inside = "  " * min(depth, _DEEPEST) + ("… " if depth > _DEEPEST else "")
            yield f"{_probability(production.p)}  {inside}{_choice(grammar, production)}"
    log_prob = space.log_prob(d)
    yield f"log-probability {log_prob:.6g}: 1 in {_odds(log_prob)} by the file's own numbers, before any bound"


def _choice(grammar: Grammar, production: Production) -> str:
    name = grammar.names[production.head]
    if grammar.terminal[production.head]:
        return f"{name} = {production.label}"
    copies = max(production.copies, default=1)
    made = production.alias or " ".join(grammar.names[c] for c in production.children) or production.label
    return f"{name} → {made}" + (f"  (its part built × {copies})" if copies > 1 else "")


def _probability(p: float) -> str:
    return f"{p:6.3f}" if p >= 0.001 or p == 0 else f"{p:6.0e}"


def _odds(log_prob: float) -> str:
    """`12,345`, `10^40`; how many draws of the grammar it takes on average."""
    if math.isinf(log_prob):
        return "infinitely many"
    digits = -log_prob / math.log(10)
    return f"{math.exp(-log_prob):,.0f}" if digits < 7 else f"10^{digits:.0f}"


def _costs(architecture: Architecture) -> Iterator[str]:
    yield facts(architecture)
    merged = merge(architecture)
    table = [("op", "×", "shape", "parameters", "", "FLOPs", "")]
    for row, count in zip(merged.rows, merged.counts, strict=True):
        params, flops = (
            percent(share(row.params * count, architecture.params)),
            percent(share(row.flops * count, architecture.flops)),
        )
        times = str(count) if count > 1 else ""
        table.append((row.full, times, shown_shape(row.shape), _count(row.params), params, _count(row.flops), flops))
    total = ("total", "", "", f"{architecture.params:,}", "", f"{architecture.flops:,}", "")
    yield from aligned([*table, total], "<><>>>>")
    if max(merged.counts, default=1) > 1:
        yield "parameters and FLOPs of one op; the shares are those of all its copies (×)"
    yield ""
    yield from _workload(architecture)


def _count(value: int) -> str:
    return f"{value:,}" if value else ""


def _workload(architecture: Architecture) -> Iterator[str]:
    work = architecture.workload(1)
    yield (
        f"a device runs {sum(op.count for op in work.ops):,} operators at batch 1 and holds "
        f"{number(work.memory_bytes('fp32'), 'bytes')} in fp32; those with most work:"
    )
    table = [("operator", "×", "FLOPs", "", "bytes", "")]
    flops, moved = work.flops, work.bytes("fp32")
    for op in sorted(work.ops, key=lambda op: (-op.flops, -op.bytes("fp32")))[:_MAIN]:
        times = str(op.count) if op.count > 1 else ""
        of_flops, of_bytes = share(op.flops, flops), share(op.bytes("fp32"), moved)
        told = (_count(op.flops), percent(of_flops), number(op.bytes("fp32"), "bytes"), percent(of_bytes))
        table.append((_sizes(op), times, *told))
    yield from aligned(table, "<>>>>>")
    if len(work.ops) > _MAIN:
        yield f"… and {len(work.ops) - _MAIN} kinds more"


def _sizes(op: OpCost) -> str:
    return " ".join([op.op, *(f"{name}={size}" for name, size in op.dims)])


def _site_lines(space: Space, d: Derivation) -> Iterator[str]:
    table = [("p", "module", "adapter", "out × in", "parameters", "", "FLOPs a row")]
    total = space.cost(d)
    left = 0
    for site, option, params, flops in adapters(space, d):
        left += not params
        shape = f"{site.out_features} × {site.in_features}"
        part = percent(share(params, total.params))
        p = _probability(math.exp(option.log_p)).strip()
        table.append((p, site.name, option.label, shape, _count(params), part, _count(flops)))
    table.append(("", "total", "", "", f"{total.params:,}", "", f"{total.flops:,}"))
    yield from aligned(table, "><<>>>>")
    log_prob = space.log_prob(d)
    sites, held = len(space.sites), number(total.bytes, "bytes")
    yield f"{sites - left} of {sites} modules adapted, {left} left alone; {held} in fp32"
    yield f"log-probability {log_prob:.6g}: 1 in {_odds(log_prob)} by the file's own numbers, before any bound"


def aligned(table: Sequence[Sequence[str]], sides: str) -> Iterator[str]:
    """Rows with columns as wide as they need, `<` to the left and `>` to the right, two spaces between; long cells are
    cut.
    """
    cut = [[shortened(cell, 48) for cell in row] for row in table]
    widths = [max(len(row[k]) for row in cut) for k in range(len(sides))]
    kept = [k for k, width in enumerate(widths) if width]
    for row in cut:
        yield "  ".join(f"{row[k]:{sides[k]}{widths[k]}}" for k in kept).rstrip()
