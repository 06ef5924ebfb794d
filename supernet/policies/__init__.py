"""Rank policies, one a file: which components a sample trains at a step."""

from __future__ import annotations

from archrank.supernet.policies.base import Policy
from archrank.supernet.registry import first_line, module_of, names_in

__all__ = ["Policy", "PolicyError", "available", "load", "summary"]


class PolicyError(ValueError):
    """A name that no file of this folder has."""


def available() -> list[str]:
    """The policies there are, by name."""
    return names_in(__path__)


def load(name: str) -> type[Policy]:
    """The class of one; PolicyError names the choices."""
    module = module_of(__name__, __path__, name, "policy", PolicyError)
    found: type[Policy] = getattr(module, module.__all__[0])
    return found


def summary(name: str) -> str:
    """One line about a policy."""
    return first_line(module_of(__name__, __path__, name, "policy", PolicyError))
