"""The Python face of the command: `archrank.run`, `archrank.open`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from archrank.grammar import nearest
from archrank.search.config import ConfigError, RunConfig, value_type
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
        _, several = value_type(known[name])
        if several:
            values[name] = (value,) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]
        else:
            values[name] = str(value) if isinstance(value, Path) else value
    return start(RunConfig(space=str(space), **values))  # type: ignore[arg-type]
