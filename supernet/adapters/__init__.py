"""Adapter families, one a file: the file's name is the word that a space's grammar uses."""

from __future__ import annotations

from archrank.supernet.adapters.base import AdapterFamily
from archrank.supernet.registry import first_line, module_of, names_in

__all__ = ["AdapterFamily", "FamilyError", "available", "load", "summary"]


class FamilyError(ValueError):
    """A name that no file of this folder has."""


def available() -> list[str]:
    """The families there are, by name."""
    return names_in(__path__)


def load(name: str) -> type[AdapterFamily]:
    """The class of one; FamilyError names the choices."""
    module = module_of(__name__, __path__, name, "adapter family", FamilyError)
    found: type[AdapterFamily] = getattr(module, module.__all__[0])
    return found


def summary(name: str) -> str:
    """One line about a family."""
    return first_line(module_of(__name__, __path__, name, "adapter family", FamilyError))
