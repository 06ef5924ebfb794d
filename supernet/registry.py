"""A folder as a registry: a plug-in's file name is the name that users give it."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

from archrank.grammar import nearest

__all__ = ["first_line", "module_of", "names_in"]


def names_in(path: Iterable[str]) -> list[str]:
    """The plug-ins of a folder, sorted; nothing is imported."""
    return sorted(m.name for m in pkgutil.iter_modules(path) if m.name != "base" and not m.name.startswith("_"))


def module_of(package: str, path: Iterable[str], name: str, what: str, error: type[ValueError]) -> ModuleType:
    """The module of one plug-in; `error` names near ones and the choices."""
    there = names_in(path)
    if name not in there:
        near = nearest(name, there)
        hint = f"did you mean {near[0]}? " if near else ""
        raise error(f"no {what} {name!r}; {hint}there are: {', '.join(there)}")
    return import_module(f"{package}.{name}")


def first_line(module: ModuleType) -> str:
    """The first line of a module's docstring: what `search list` shows."""
    return (module.__doc__ or "").strip().splitlines()[0]
