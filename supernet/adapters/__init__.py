"""Adapter families, one a file: the file's name is the word that a space's grammar uses."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from archrank.supernet.adapters.base import AdapterFamily

__all__ = ["AdapterFamily", "available", "load", "summary"]


def available() -> list[str]:
    """The families there are, by name."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def load(name: str) -> type[AdapterFamily]:
    """The class of one family; ValueError names the choices."""
    if name not in available():
        raise ValueError(f"no adapter family {name!r}; there are: {', '.join(available())}")
    module = import_module(f"{__name__}.{name}")
    family: type[AdapterFamily] = getattr(module, module.__all__[0])
    return family


def summary(name: str) -> str:
    """One line about a family: the first of its file's docstring."""
    return (import_module(f"{__name__}.{name}").__doc__ or "").strip().splitlines()[0]
