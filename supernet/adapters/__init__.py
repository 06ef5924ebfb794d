"""Adapter families, one a file: the file's name is the word that a space's grammar uses."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from archrank.grammar import nearest
from archrank.supernet.adapters.base import AdapterFamily

__all__ = ["AdapterFamily", "FamilyError", "available", "load", "summary"]


class FamilyError(ValueError):
    """A name that no file of this folder has."""


def available() -> list[str]:
    """The families there are, by name."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def load(name: str) -> type[AdapterFamily]:
    """The class of one family; FamilyError names the choices."""
    if name not in available():
        near = nearest(name, available())
        hint = f"did you mean {near[0]}? " if near else ""
        raise FamilyError(f"no adapter family {name!r}; {hint}there are: {', '.join(available())}")
    module = import_module(f"{__name__}.{name}")
    family: type[AdapterFamily] = getattr(module, module.__all__[0])
    return family


def summary(name: str) -> str:
    """One line about a family: the first of its file's docstring."""
    return (import_module(f"{__name__}.{name}").__doc__ or "").strip().splitlines()[0]
