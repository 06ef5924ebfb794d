"""A space meets a base: sites from the base's modules, bounds from the user's constraints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from archrank import grammar
from archrank.search.config import ConfigError
from archrank.search.errors import NothingFeasible
from archrank.search.expression import Constraint, parse_where

__all__ = ["bound_space", "in_words", "tightened"]


@contextmanager
def in_words(space: grammar.Space) -> Iterator[None]:
    """What the grammar refuses in Python's plain words becomes a message that names the space."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ConfigError(f"{space.path or space.name}: {error}") from None


def bound_space(space: grammar.Space, *, base: str | None, target_modules: str | None) -> grammar.Space:
    """`space` with one site for each module of the base (default: the embedded one); other spaces come back as they
    are.

    Only the base's shapes are needed: no weight is loaded.
    """
    if not space.is_site_space or space.sites:
        return space
    from archrank.supernet.base import module_shapes

    shapes = module_shapes(base, target_modules or space.target_modules or "all-linear")
    with in_words(space):
        return space.bind(shapes)


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
