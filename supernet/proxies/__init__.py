"""Zero-cost proxies, one a file: a number that ranks untrained candidates, from at most one batch; higher is better.

    proxies.load("synflow")(module, batch)        # -> float
    proxies.scores(module, batch)                 # -> {name: float}, of all there are

module: an ordinary network, of which every parameter counts that requires a gradient, or an `Elastic` net (or a slice
of one), of which the adapters count. batch: the keywords of its forward and `labels`. The module, its gradients and its
mode are the same afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from archrank.supernet.proxies.base import ProxyError
from archrank.supernet.registry import first_line, module_of, names_in

__all__ = ["Proxy", "ProxyError", "available", "load", "scores", "summary"]

Proxy = Callable[[nn.Module, Mapping[str, Tensor]], float]


def available() -> list[str]:
    """The proxies there are, by name."""
    return names_in(__path__)


def load(name: str) -> Proxy:
    """One of them; ProxyError names the choices."""
    found: Proxy = module_of(__name__, __path__, name, "zero-cost proxy", ProxyError).score
    return found


def summary(name: str) -> str:
    """One line about a proxy."""
    return first_line(module_of(__name__, __path__, name, "zero-cost proxy", ProxyError))


def scores(module: nn.Module, batch: Mapping[str, Tensor], names: Iterable[str] | None = None) -> dict[str, float]:
    """{name: score}, of all proxies or those named."""
    return {name: load(name)(module, batch) for name in (available() if names is None else names)}
