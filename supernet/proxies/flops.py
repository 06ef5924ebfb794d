"""FLOPs of a row: 2 × multiply-adds of its products and convolutions, as torch's FlopCounterMode counts them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from archrank.supernet.proxies.base import logits_of
from archrank.supernet.tasks import inputs_of

__all__ = ["score"]


def score(module: nn.Module, batch: Mapping[str, Tensor]) -> float:
    """Of the first row, in evaluation mode."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            logits_of(module, {name: value[:1] for name, value in inputs_of(batch).items()})
    finally:
        for m, mode in modes:
            m.training = mode
    return float(counter.get_total_flops())
