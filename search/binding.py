"""A space meets a base: sites from the base's modules, bounds from the user's constraints."""

from __future__ import annotations

from collections.abc import Iterable

from archrank import grammar
from archrank.search.errors import NothingFeasible
from archrank.search.expression import Constraint, parse_where

__all__ = ["bound_space", "tightened"]


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
    """The sentences of `space` that meet the bounds on adapter parameters in `where`; EmptySpaceError when none
    does.
    """
    constraints = [c for w in where for c in (parse_where(w) if isinstance(w, str) else (w,))]
    low, high = 0.0, float("inf")
    for c in constraints:
        if c.name == "adapter_params":
            if c.op in ("<=", "<", "=="):
                high = min(high, c.value - (1 if c.op == "<" else 0))
            if c.op in (">=", ">", "=="):
                low = max(low, c.value + (1 if c.op == ">" else 0))
    if high < low:
        raise NothingFeasible(f"no candidate meets {' and '.join(map(str, constraints))}: adapter_params starts at 0")
    return space.within(adapter_params=(low, high)) if (low, high) != (0.0, float("inf")) else space
