"""`search check`: reads and lints a space file, and says what its samples are like."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from archrank.search.cli._options import add_json, add_space, print_json

if TYPE_CHECKING:
    from archrank.grammar import Space

SUMMARY = "read and lint a space file; its size, branching, bounds and samples"
EXAMPLES = """
search check einspace
search check my_space.lark --base ./minilm
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SPACE with what it is for."""
    add_space(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 2 with file:line:column when the file cannot be used."""
    from archrank.search import survey
    from archrank.search.cli._space import given_space

    space = given_space(args)
    size = survey.size(space)
    lints = [
        {"line": lint.line, "column": lint.column, "code": lint.code, "message": lint.message} for lint in space.lints
    ]
    if args.json:
        print_json({"lints": lints, "size": size})
        return 0
    sys.stdout.writelines(
        f"{space.path or space.name}:{x['line']}:{x['column']}: {x['code']}: {x['message']}\n" for x in lints
    )
    sys.stdout.writelines(line + "\n" for line in _told(space, size))
    return 0


def _told(space: Space, size: int | None) -> Iterator[str]:
    from archrank.search import survey

    costs = [name for name in space.bounds if name not in ("size", "depth")] if space.is_architecture_space else []
    counted = f"; those above the bounds on {' and '.join(costs)} are counted as well" if costs else ""
    sites = f" on {len(space.sites)} modules" if space.sites else ""
    yield f"{space.name}: {_human(size)} candidates{sites}{counted}"
    if space.input is not None:
        yield f"input: {'×'.join(map(str, space.input))}"
    for name, value in space.bounds.items():
        yield f"bound: {name} <= {value:,.0f}"
    rates = survey.rates(space)
    if rates is not None:
        told = f"{rates[0]:.3g} a step, {rates[1]:.3g} with every copy counted"
        yield f"branching: {told} (from 1 on sizes have no mean without a bound)"
    bins = survey.sizes(space)
    if bins:
        yield "size of samples under the bound:"
        yield from survey.chart(bins)
    yield from _samples(space)


def _samples(space: Space) -> Iterator[str]:
    from archrank.search import survey

    try:
        found = survey.joins(space)
    except ValueError as error:  # the file loads, and hardly any of its sentences fits the input
        yield f"samples: {error}"
        return
    if found is None:
        return
    yield f"{found.samples} samples" + (f" of size at most {found.most:,}:" if found.most else ":")
    yield f"  parameters: half up to {found.params[0]:,}, largest {found.params[1]:,}"
    yield f"  FLOPs: half up to {found.flops[0]:,}, largest {found.flops[1]:,}"
    whole = sum(found.closed.values())
    if whole:
        shares = {name: f"{100 * count / whole:.0f} %" for name, count in found.closed.items()}
        yield (
            f"  joins: {shares['free']} as drawn, {shares['goal']} after one branch was filled towards the other, "
            f"{shares['fallback']} after both were filled to keep their shape"
        )
    yield "  ops, in how many samples: " + ", ".join(f"{name} {count}" for name, count in found.ops.items())


def _human(size: int | None) -> str:
    if size is None:
        return "infinitely many"
    return f"{size:,}" if size < 10**9 else f"about 10^{int(math.log10(size))}"
