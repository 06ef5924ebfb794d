"""What can be named on the command line: the contents of the plug-in folders, a line each."""

from __future__ import annotations

from archrank.grammar import nearest
from archrank.search.config import ConfigError

__all__ = ["KINDS", "entries"]

KINDS = ("spaces", "devices", "strategies", "policies", "families", "objectives")


def entries(kind: str) -> list[tuple[str, str]]:
    """(name, one line) of each thing of a kind; ConfigError lists the kinds."""
    match kind:
        case "spaces":
            from archrank import spaces

            return [(name, spaces.summary(name)) for name in spaces.available()]
        case "devices":
            from archrank import predictors

            return [(name, predictors.summary(name)) for name in predictors.available()]
        case "strategies":
            from archrank.search import strategies

            return [(name, strategies.summary(name)) for name in strategies.available()]
        case "policies":
            from archrank.supernet import policies

            return [(name, policies.summary(name)) for name in policies.available()]
        case "families":
            from archrank.supernet import adapters

            return [(name, adapters.summary(name)) for name in adapters.available()]
        case "objectives":
            from archrank.search.objective import KNOWN

            return [
                (o.name, f"{o.direction}imised, {o.unit}" if o.unit else f"{o.direction}imised") for o in KNOWN.values()
            ]
    near = nearest(kind, list(KINDS))
    raise ConfigError(f"no kind {kind!r}{f'; did you mean {near[0]}?' if near else ''}; there are: {', '.join(KINDS)}")
