"""Strategies: the file name is the registry. `optuna:SAMPLER` is any sampler of Optuna."""

from __future__ import annotations

import ast
import pkgutil
from importlib import import_module
from pathlib import Path

from archrank.grammar import nearest
from archrank.search.strategies.base import Factory, Strategy, StrategyError

__all__ = ["Factory", "Strategy", "StrategyError", "available", "load", "summary"]


def available() -> list[str]:
    """The names of the strategies, sorted; nothing is imported."""
    names = [m.name for m in pkgutil.iter_modules(__path__)]
    return sorted(n for n in names if n != "base" and not n.startswith("_"))


def load(name: str) -> Factory:
    """The strategy's class, called as `load(name)(space, objectives, seed)`; StrategyError names the nearest
    and the choices.

    `optuna` is its default sampler, TPE; `optuna:NSGAIISampler` another one.
    """
    stem, _, sampler = name.partition(":")
    if stem not in available() or (sampler and stem != "optuna"):
        near = nearest(stem, available())
        hint = f"did you mean {near[0]}? " if near else ""
        raise StrategyError(
            f"no strategy {name!r}; {hint}There are: {', '.join(available())} "
            "(optuna:SAMPLER for one sampler of Optuna)"
        )
    module = import_module(f"{__name__}.{stem}")
    factory: Factory = module.sampler(sampler or "TPESampler") if stem == "optuna" else module.STRATEGY
    return factory


def summary(name: str) -> str:
    """The first line of the strategy's file, read without importing it."""
    if name not in available():
        load(name)
    source = (Path(__path__[0]) / f"{name.partition(':')[0]}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
