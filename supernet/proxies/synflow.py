"""SynFlow: Σ |θ ∂R/∂θ| with all weights at their absolute value and R the sum of the outputs for an input of ones.

Tanaka et al. 2020, arXiv 2006.05467, equation 2, as a score of whole networks in Abdelfattah et al. 2021. No data are
read but the shapes of one row: token ids keep their values, and everything else is ones. Batch normalisation uses its
running statistics, as the identity does in a fresh network. Computed in float64, since R is a product of layers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from archrank.supernet.proxies.base import finite, logits_of, weights_of
from archrank.supernet.tasks import inputs_of

__all__ = ["score"]


def score(module: nn.Module, batch: Mapping[str, Tensor]) -> float:
    """On a copy of the module; log(1 + Σ), which keeps the order and stays in range."""
    weights_of(module)
    flow = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.abs_()
    rows = {
        name: torch.ones_like(value[:1], dtype=torch.float64) if value.is_floating_point() else value[:1]
        for name, value in inputs_of(batch).items()
    }
    weights = weights_of(flow)
    with torch.enable_grad():
        gradients = torch.autograd.grad(logits_of(flow, rows).sum(), weights, allow_unused=True)
    pairs = zip(weights, gradients, strict=True)
    total = sum(float((w.detach() * g).abs().sum()) for w, g in pairs if g is not None)
    return finite("synflow", float(torch.log1p(torch.tensor(total, dtype=torch.float64))))
