"""Rank policies, one a file: which components a sample trains at a step."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from archrank.grammar import nearest
from archrank.supernet.policies.base import Policy

__all__ = ["Policy", "PolicyError", "available", "load", "summary"]


class PolicyError(ValueError):
    """A name that no file of this folder has."""


def available() -> list[str]:
    """The policies there are, by name."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def load(name: str) -> type[Policy]:
    """The class of one policy; PolicyError names the choices."""
    if name not in available():
        near = nearest(name, available())
        hint = f"did you mean {near[0]}? " if near else ""
        raise PolicyError(f"no policy {name!r}; {hint}there are: {', '.join(available())}")
    module = import_module(f"{__name__}.{name}")
    policy: type[Policy] = getattr(module, module.__all__[0])
    return policy


def summary(name: str) -> str:
    """One line about a policy: the first of its file's docstring."""
    return (import_module(f"{__name__}.{name}").__doc__ or "").strip().splitlines()[0]
