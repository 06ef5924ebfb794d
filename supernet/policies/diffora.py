"""A gate for each module, relaxed and learnt on validation batches: which modules are adapted at all (after DiffoRA,
arXiv 2502.08905).

The paper's code is not public; of its text the abstract is: a matrix that says which module gets a LoRA, built by
continuous relaxation, discretisation and weight sharing. What is implemented here, and why:

- relaxation: c_l = γ_l · 1, γ_l = sigmoid(α_l), α_l = 2.2 at the start (γ = .9: every module trains from the first
  step);
- bilevel: A and B descend the training loss, α the validation loss + μ max(0, Σ γ_l p_l / P − ρ_t), in turn, to first
  order, `diffora:second-order` through an unrolled step of A and B (DARTS, Liu et al. 2019; `supernet/bilevel.py`); p_l
  are the module's parameters and P their sum, so the penalty holds a budget in parameters;
- one run traces the front: ρ_t is 1 for half of the training and then falls evenly in its logarithm;
- discretisation under a budget over all modules at once, not a number a layer: modules in the order of γ_l, each with
  all its components where it still fits, γ_l folded in so that the function changes least;
- weight sharing for the modules left out: those of one shape share one component, the best one in the least-squares
  sense for all of their products (rank-1 SVD of the mean of γ_l ΔW_l). An exported adapter holds a copy for each
  module, so it is counted for each, and a budget that cannot hold the copies goes without them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from archrank.supernet.net import Elastic
from archrank.supernet.policies._gates import Gated
from archrank.supernet.policies._sharing import with_shared

__all__ = ["DiffoRA"]

START, PENALTY = 2.2, 4.0


class DiffoRA(Gated):
    """Module gates, bilevel, under a falling budget."""

    bilevel = True
    traces = True
    switches_modules = True

    def start(self) -> Tensor:
        """α `(modules,)`."""
        return torch.full((len(self.modules),), START)

    @property
    def least(self) -> float:
        """Of the cheapest module with all its components: below it there is nothing to choose."""
        return max(super().least, float((self.held().sum(1) * self.prices).min()))

    def weights(self) -> Tensor:
        """γ_l for every component of module l."""
        return self.gates.sigmoid()[:, None] * self.held()

    def gate_gradients(self, loss: Tensor, step: int, store: Sequence[Tensor] = ()) -> Sequence[Tensor | None]:
        """Of the validation loss and the budget penalty."""
        size = (self.gates.sigmoid() * self.held().sum(1) * self.prices).sum() / self.full
        share = self.budget(step) / self.full
        return super().gate_gradients(loss + (PENALTY * (size - share).clamp(min=0)).to(loss.device), step, store)

    def chosen(self, budget: float | None) -> Tensor:
        """0 and 1 `(modules,)`: by γ_l, greedily; without a budget γ_l >= 1/2."""
        gamma = self.gates.detach().sigmoid()
        if budget is None:
            return (gamma >= 0.5).float()
        kept, left = torch.zeros_like(gamma), budget
        for place in torch.sort(gamma, descending=True, stable=True).indices.tolist():
            price = float(self.limits[place] * self.prices[place])
            if price <= left:
                kept[place], left = 1, left - price
        return kept

    def support(self, net: Elastic, budget: float | None = None) -> Tensor:
        """All components of the chosen modules, at γ_l."""
        return self.weights().detach() * self.chosen(budget)[:, None]

    def factors(self, net: Elastic, budget: float | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """The chosen modules', and one shared component for those of one shape that were left out."""
        copies = float(self.prices.sum())
        if budget is not None and budget <= copies:
            return super().factors(net, budget)
        chosen = self.chosen(None if budget is None else budget - copies)
        weights = self.weights().detach()
        return with_shared(net, weights, chosen > 0, self.modules)


class SecondOrder(DiffoRA):
    """Through an unrolled step."""

    second_order = True


VARIANTS = {"first-order": DiffoRA, "second-order": SecondOrder}
