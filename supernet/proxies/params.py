"""Parameters that would be trained: the baseline that every proxy has to beat."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from archrank.supernet.proxies.base import weights_of

__all__ = ["score"]


def score(module: nn.Module, batch: Mapping[str, Tensor]) -> float:
    """Σ numel; the batch is not read."""
    return float(sum(p.numel() for p in weights_of(module)))
