"""A gate for each component, L1 and a proximal step; a rising λ gives a whole curve in one chain (Ding et al., SoRA,
EMNLP 2023, arXiv 2311.11696).

c_l = g_l. After each Adam step g ← soft_threshold(g, ξ), ξ = η λ_t n̄ / n_j with η the gates' rate and n_j = ‖a_j‖
‖b_j‖: the threshold acts on σ_j = |g_j| n_j, because a gate alone can escape by moving its size into a_j and b_j.
Gates start at 1; λ is 0 for half of the training, then rises evenly in its logarithm from 0.05 to 16. `sora:official`
reproduces the released code: gates N(0, 1), loss + λ mean |g|, and its three-line threshold with a ξ that the
learning rate does not scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archrank.supernet.net import Elastic
from archrank.supernet.policies._gates import Gated, official_threshold, soft_threshold
from archrank.supernet.policies._schedule import DENSE
from archrank.supernet.policies.base import counter_uniform, sizes_of

__all__ = ["SoRA"]

FIRST, LAST = 0.05, 16.0
OFFICIAL_LAMBDA, OFFICIAL_XI = 1e-3, 7e-4


class SoRA(Gated):
    """Sparse gates by a true proximal step."""

    traces = True

    def traced(self, net: Elastic, step: int) -> dict[str, tuple[Tensor, Tensor]]:
        """What is left: the chain itself does the cutting."""
        return self.factors(net)

    def strength(self, step: int) -> float:
        """λ_t."""
        done = (step + 1 - DENSE * self.steps) / max(1.0, (1 - DENSE) * self.steps)
        return 0.0 if self.steps <= 0 or done <= 0 else FIRST * float((LAST / FIRST) ** min(1.0, done))

    def after_step(self, net: Elastic, step: int, lr: float) -> None:
        """Adam, then the proximal map of λ Σ σ_j."""
        rate = self.gate_rate(lr)
        self.adam(rate)
        if strength := self.strength(step):
            sizes = sizes_of(net, self.r_max)
            mean = sizes[self.held() > 0].mean()
            ratio = (mean / sizes.clamp(min=1e-12)).clamp(0.1, 10.0)
            self.gates.data.copy_(soft_threshold(self.gates.data, rate * strength * ratio))


class Official(SoRA):
    """The released code, for reproduction."""

    def start(self) -> Tensor:
        """N(0, 1) by Box and Muller, from the policy's seed."""
        place = torch.arange(len(self.modules) * self.r_max).numpy()
        u, v = (torch.from_numpy(counter_uniform(self.seed, k, place)) for k in (19, 23))
        normal = (-2 * (1 - u).log()).sqrt() * (2 * torch.pi * v).cos()
        return normal.float().view(len(self.modules), self.r_max) * self.held()

    def penalty(self, net: Elastic, step: int) -> Tensor | None:
        """λ mean |g|."""
        return OFFICIAL_LAMBDA * (self.gates.abs().sum() / self.held().sum())

    def after_step(self, net: Elastic, step: int, lr: float) -> None:
        """Adam at the store's rate, then the threshold: ξ in seven steps from 0 to 7·10⁻⁴ after the dense half."""
        self.adam(lr)
        done = (step + 1 - DENSE * self.steps) / max(1.0, (1 - DENSE) * self.steps)
        if self.steps > 0 and done > 0:
            xi = OFFICIAL_XI * min(6, int(7 * done)) / 6
            self.gates.data.copy_(official_threshold(self.gates.data, xi))


VARIANTS = {"official": Official, "soft": SoRA}
