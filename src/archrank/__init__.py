"""archrank: neural architecture and rank search.

A space file defines the candidates, a weight-sharing supernet and a device model price them, a strategy searches, a Pareto front comes home. This module
is light: a name loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archrank import grammar as grammar
    from archrank import kernels as kernels
    from archrank import predictors as predictors
    from archrank import search as search
    from archrank import spaces as spaces
    from archrank import supernet as supernet
    from archrank.grammar.user_ops import op as op
    from archrank.search.api import open_run as open
    from archrank.search.api import run as run
    from archrank.search.optimizing import optimize as optimize
    from archrank.search.shrinking import shrink as shrink
    from archrank.search.study import Study as Study

__version__ = "0.1.0"
__all__ = [
    "Study", "__version__", "grammar", "kernels", "op", "open", "optimize", "predictors", "run", "search", "shrink", "spaces",
    "supernet",
]  # fmt: skip

_ATTRIBUTES = {
    "op": ("archrank.grammar.user_ops", "op"),
    "run": ("archrank.search.api", "run"),
    "open": ("archrank.search.api", "open_run"),
    "shrink": ("archrank.search.shrinking", "shrink"),
    "optimize": ("archrank.search.optimizing", "optimize"),
    "Study": ("archrank.search.study", "Study"),
}
_PACKAGES = ("grammar", "kernels", "predictors", "search", "spaces", "supernet")


def __getattr__(name: str) -> object:
    if name in _ATTRIBUTES:
        module, attribute = _ATTRIBUTES[name]
        return getattr(import_module(module), attribute)
    if name in _PACKAGES:
        return import_module(f"archrank.{name}")
    raise AttributeError(f"archrank has no {name!r}; there are: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
