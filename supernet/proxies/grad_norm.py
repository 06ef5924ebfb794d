"""Gradient norm: √Σ (∂L/∂θ)² over the weights that would be trained (Abdelfattah et al. 2021, arXiv 2101.08134)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from archrank.supernet.proxies.base import finite, loss_of, untouched, weights_of

__all__ = ["score"]


def score(module: nn.Module, batch: Mapping[str, Tensor]) -> float:
    """L: the mean cross-entropy of the batch; a weight that L does not depend on adds nothing."""
    weights = weights_of(module)
    with untouched(module), torch.enable_grad():
        gradients = torch.autograd.grad(loss_of(module, batch), weights, allow_unused=True)
    return finite("grad_norm", float(sum(float(g.double().square().sum()) for g in gradients if g is not None)) ** 0.5)
