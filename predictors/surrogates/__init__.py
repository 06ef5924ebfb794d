"""Surrogates of a measured quality, one a file: fitted to a few candidates, they predict the others with a spread.

    model = surrogates.load("gp")(seed=0).fit(x, y)        # x (n, features), y (n,)
    told = model.predict(x_new)                            # told.mean, told.std, (m,) each

`features(space, derivations)` makes x of the candidates of any space.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from archrank.grammar import nearest
from archrank.predictors.surrogates.base import Estimate, Fitted, Surrogate, SurrogateError
from archrank.predictors.surrogates.encoded import features

__all__ = ["Estimate", "Fitted", "Surrogate", "SurrogateError", "available", "features", "load", "summary"]

_NO_MODELS = ("base", "encoded")


def available() -> list[str]:
    """The surrogates there are, by name."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if name not in _NO_MODELS and not name.startswith("_"))


def load(name: str) -> type[Surrogate]:
    """The class of one, made with `seed`; SurrogateError names the choices."""
    if name not in available():
        near = nearest(name, available())
        hint = f"did you mean {near[0]}? " if near else ""
        raise SurrogateError(f"no surrogate {name!r}; {hint}there are: {', '.join(available())}")
    module = import_module(f"{__name__}.{name}")
    found: type[Surrogate] = getattr(module, module.__all__[0])
    return found


def summary(name: str) -> str:
    """One line about a surrogate."""
    return (import_module(f"{__name__}.{name}").__doc__ or "").strip().splitlines()[0] if load(name) else ""
