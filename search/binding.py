"""A space meets a base: sites from the base's modules, bounds from the user's constraints."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from archrank import grammar
from archrank.search.errors import NothingFeasible
from archrank.search.expression import Constraint, ExpressionError, parse_where

__all__ = ["bound_space", "read_shape", "tightened", "within"]

_SHAPE = re.compile(r"[0-9]{1,9}(?:[x×][0-9]{1,9}){0,2}")


def read_shape(text: str) -> tuple[int, ...]:
    """3x32x32 as numbers, each from 1 to 2³¹ − 1; () where it is no shape of one to three axes."""
    shape = tuple(map(int, re.split("[x×]", text))) if _SHAPE.fullmatch(text) else ()
    return shape if all(0 < n < 2**31 for n in shape) else ()


def bound_space(space: grammar.Space, *, base: str | None, target_modules: str | None) -> grammar.Space:
    """`space` with one site for each module, or layer, of the base (default: the embedded one); other spaces come back
    as they are.

    Only the base's shapes are needed: no weight is loaded.
    """
    if not space.needs_binding:
        return space
    if space.is_layer_space:
        from archrank.supernet.base import layer_shapes

        return space.bind_layers(layer_shapes(base))
    from archrank.supernet.base import module_shapes

    return space.bind(module_shapes(base, target_modules or space.target_modules or "all-linear"))


def tightened(space: grammar.Space, where: Iterable[str | Constraint]) -> grammar.Space:
    """The sentences of `space` that meet what `where` says of their own costs: adapter parameters of adapters, any cost
    of architectures. What else it says is left to the trials. EmptySpaceError where no sentence does.
    """
    constraints = _parsed(where)
    names = ("adapter_params",) if space.is_site_space else space.costs
    return _within(space, [c for c in constraints if c.name in names and (_is_taken(space, c) or space.is_site_space)])


def within(space: grammar.Space, where: Iterable[str | Constraint]) -> grammar.Space:
    """The sentences of `space` that meet all of `where`.

    Raises ExpressionError where a sentence has no such cost or the space cannot keep such a bound, EmptySpaceError or
    NothingFeasible where no sentence meets it.
    """
    constraints = _parsed(where)
    for c in constraints:
        if c.name not in space.costs:
            near = grammar.nearest(c.name, list(space.costs))
            hint = f"did you mean {near[0]}? " if near else ""
            raise ExpressionError(
                f"{c}: sentences of {space.name} have no {c.name}; {hint}Known here: {', '.join(space.costs)}"
            )
        if not _is_taken(space, c):
            raise ExpressionError(f"{c}: {space.name} can be bounded in {c.name} from above alone: write {c.name} <= N")
    return _within(space, constraints)


def _parsed(where: Iterable[str | Constraint]) -> list[Constraint]:
    return [c for w in where for c in (parse_where(w) if isinstance(w, str) else (w,))]


def _is_taken(space: grammar.Space, c: Constraint) -> bool:
    """Whether the space can keep such a bound: spaces of sites both ends of any cost, others the lower of size only."""
    return space.is_site_space or c.op in ("<=", "<") or c.name == "size"


def _within(space: grammar.Space, constraints: Sequence[Constraint]) -> grammar.Space:
    """Every cost is a whole number, so `<` and `>` are `<=` and `>=` of its neighbours."""
    ranges: dict[str, tuple[float, float]] = {}
    for c in constraints:
        low, high = ranges.get(c.name, (0.0, math.inf))
        if c.op in ("<=", "<", "=="):
            high = min(high, math.ceil(c.value) - 1 if c.op == "<" else math.floor(c.value))
        if c.op in (">=", ">", "=="):
            low = max(low, math.floor(c.value) + 1 if c.op == ">" else math.ceil(c.value))
        if high < low:
            said = " and ".join(str(other) for other in constraints if other.name == c.name)
            raise NothingFeasible(f"no candidate meets {said}: {c.name} is a whole number and starts at 0")
        ranges[c.name] = (low, high)
    if not ranges:
        return space
    get = ranges.get
    return space.within(
        size=get("size"),
        depth=get("depth"),
        params=get("params"),
        adapter_params=get("adapter_params"),
        flops=get("flops"),
        activation_bytes=get("activation_bytes"),
    )
