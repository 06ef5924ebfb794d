"""The Python face of the command: `archrank.run`, `archrank.open`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path

from archrank.grammar import nearest
from archrank.search.config import ConfigError, RunConfig, checked_value, value_type
from archrank.search.results import Run, open_run

__all__ = ["open_run", "run"]


def run(space: str | Path, **flags: object) -> Run:
    """`search run` from Python: the command's flags as keywords, `hw="a100"` or `hw=["a100", "h100"]`.

    Returns the finished run. Errors are ValueErrors that name the keyword; NothingFeasible and EmptySpaceError where
    no candidate fits.
    """
    from archrank.search.run import start

    known = {f.name: f for f in fields(RunConfig)}
    values: dict[str, object] = {}
    for name, value in flags.items():
        if name not in known:
            near = nearest(name, list(known))
            raise ConfigError(f"run() has no keyword {name!r}{f'; did you mean {near[0]}?' if near else ''}")
        if value is None:
            continue  # as if it were not given
        _, several = value_type(known[name])
        many = [*value] if several and isinstance(value, Iterable) and not isinstance(value, str | Path) else [value]
        plain = [_plain(v) for v in many]
        values[name] = checked_value(f"run({name}=…): ", known[name], plain if several else plain[0])
    return start(RunConfig(space=str(space), **values))  # type: ignore[arg-type]


def _plain(value: object) -> object:
    """A path as text, numpy's numbers as Python's."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)
