"""Rank policies, one a file: which components a sample trains at a step."""

from __future__ import annotations

from archrank.supernet.policies.base import Policy, PolicyError
from archrank.supernet.registry import first_line, module_of, names_in

__all__ = ["Policy", "PolicyError", "available", "load", "summary"]


def available() -> list[str]:
    """The policies there are, by name."""
    return names_in(__path__)


def load(name: str) -> type[Policy]:
    """The class of one; `NAME:VARIANT` where a file has variants (`dylora:frozen`). PolicyError names the choices."""
    name, colon, variant = name.partition(":")
    module = module_of(__name__, __path__, name, "policy", PolicyError)
    found: type[Policy] = getattr(module, module.__all__[0])
    if not colon:
        return found
    variants: dict[str, type[Policy]] = getattr(module, "VARIANTS", {})
    if variant not in variants:
        there = ", ".join(f"{name}:{v}" for v in variants) or "none"
        raise PolicyError(f"policy {name} has no variant {variant!r}; there are: {there}")
    return variants[variant]


def summary(name: str) -> str:
    """One line about a policy."""
    return first_line(module_of(__name__, __path__, name, "policy", PolicyError))
