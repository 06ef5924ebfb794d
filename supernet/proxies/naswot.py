"""NASWOT: log |det K| with K_ij = the number of activation units that are on or off alike for rows i and j.

Mellor et al. 2021, arXiv 2006.04647, equation 2. A unit is on where an activation function's input is above 0; besides
ReLU also GELU, SiLU, Hardswish, LeakyReLU and Hardsigmoid are watched, wherever they are called. No labels are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from archrank.supernet.proxies.base import ProxyError, finite, logits_of, untouched

__all__ = ["score"]

_aten = torch.ops.aten
_WATCHED = {
    packet
    for name in ("relu", "gelu", "silu", "hardswish", "leaky_relu", "hardsigmoid")
    for packet in (getattr(_aten, name), getattr(_aten, f"{name}_"))
}


class _Signs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """K, summed over the activation functions that are called while it is on."""

    def __init__(self, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows, self.units = rows, 0
        self.kernel = torch.zeros(rows, rows, dtype=torch.float64)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls it; what an activation function takes is looked at before (it may overwrite it)."""
        if getattr(func, "_overloadpacket", None) in _WATCHED and len(args[0]) == self.rows:
            on = (args[0] > 0).flatten(1).float()
            alike = on @ on.T + (1 - on) @ (1 - on).T
            self.kernel += alike.double().cpu()
            self.units += on.shape[1]
        return func(*args, **(kwargs or {}))


def score(module: nn.Module, batch: Mapping[str, Tensor]) -> float:
    """K as a share of all units, so that det stays in range: log |det K| = log |det K/N| + rows · log N. Rows that no
    unit tells apart make it singular; 1e-9 on the diagonal keeps such a candidate at the bottom.
    """
    rows = len(next(iter(batch.values())))
    if rows < 2:
        raise ProxyError("naswot compares the rows of a batch: give at least 2")
    signs = _Signs(rows)
    with untouched(module), torch.no_grad(), signs:
        logits_of(module, batch)
    if not signs.units:
        raise ProxyError(f"{type(module).__name__} calls no activation function that naswot watches: no order to give")
    share = signs.kernel / signs.units + 1e-9 * torch.eye(rows, dtype=torch.float64)
    return finite("naswot", float(torch.linalg.slogdet(share).logabsdet) + rows * math.log(signs.units))
