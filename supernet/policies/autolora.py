"""Softmax gates over the components of each module, learnt on validation batches (Zhang et al., AutoLoRA, NAACL 2024,
arXiv 2403.09113).

c_l = R_l softmax(β_l), so that all gates start at 1 (the paper's sum to 1: the same store at another scale). A and B
descend the training loss, β the validation loss, in turn: the bilevel problem to first order. `autolora:second-order`
takes β's gradient through an unrolled step of A and B, as the paper does (`supernet/bilevel.py`), at twice the passes.
Without a budget component j stays where softmax(β_l)_j >= 1 / R_l, at least one a module, as in the paper; under a
budget the largest c_j ‖b_j‖ ‖a_j‖ for their price.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archrank.supernet.net import Elastic
from archrank.supernet.policies._gates import Gated

__all__ = ["AutoLoRA"]


class AutoLoRA(Gated):
    """Softmax gates, bilevel."""

    bilevel = True
    traces = True
    betas = (0.5, 0.999)

    def start(self) -> Tensor:
        """β = 0."""
        return torch.zeros(len(self.modules), self.r_max)

    def weights(self) -> Tensor:
        """R_l softmax(β_l) over the components that module l holds."""
        held = self.held()
        beta = self.gates.masked_fill(held == 0, -torch.inf)
        return held.sum(1, keepdim=True) * beta.softmax(1)

    def support(self, net: Elastic, budget: float | None = None) -> Tensor:
        """Without a budget the components above the mean of their module."""
        if budget is not None:
            return super().support(net, budget)
        weights = self.weights().detach()
        return torch.where(weights >= 1 - 1e-6, weights, 0.0)


class SecondOrder(AutoLoRA):
    """Through an unrolled step, as in the paper."""

    second_order = True


VARIANTS = {"first-order": AutoLoRA, "second-order": SecondOrder}
