"""One module truncated a step, a hierarchical group lasso, progressive shrinking (Horváth et al., Maestro, ICML 2024,
arXiv 2308.14929).

c_l = 1[j <= b] for one l, ones elsewhere; the pair (l, b) is uniform over all live pairs, so modules with more live
components are truncated more often. Loss + λ Σ_l Σ_b (‖B_{:,b:}‖ + ‖A_{b:}‖), reverse cumulative norms. Alone it traces
a front: from half of the training on, the components with the smallest ‖B_{:,b:}‖ ‖A_{b:}‖ are shrunk away so that a
falling budget is kept; the paper compares that product with a fixed ε, which here is whatever ε the budget needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archrank.supernet.net import Elastic
from archrank.supernet.policies.base import Policy, counter_uniform, within_budget

__all__ = ["Maestro"]

GROUP_LASSO = 1e-4


class Maestro(Policy):
    """One module truncated at a time."""

    traces = True

    def __init__(
        self,
        modules: Mapping[str, tuple[int, int]],
        r_max: int,
        seed: int = 0,
        ranks: Sequence[int] | None = None,
    ) -> None:
        super().__init__(modules, r_max, seed, ranks)
        self.live = torch.from_numpy(self.limits.copy())

    def state(self) -> dict[str, Tensor]:
        """Live components a module."""
        return {"live": self.live}

    def spectrum(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """C `(samples, modules, r_max)`, the same for all samples of a step."""
        ranks, ends = self.live.numpy().copy(), np.cumsum(self.live.numpy())
        if ends[-1]:
            pair = int(counter_uniform(self.seed, step, 17) * ends[-1])
            module = int(np.searchsorted(ends, pair, side="right"))
            ranks[module] = pair - (ends[module] - ranks[module]) + 1
        return self.prefixes(np.broadcast_to(ranks, (len(samples), len(self.modules))))

    def traced(self, net: Elastic, step: int) -> dict[str, tuple[Tensor, Tensor]]:
        """What is left: the chain itself does the cutting."""
        return self.factors(net)

    def penalty(self, net: Elastic, step: int) -> Tensor | None:
        """λ Σ_l Σ_b (‖B_{:,b:}‖ + ‖A_{b:}‖) over live components."""
        total = torch.zeros((), device=next(net.adapters.parameters()).device)
        for adapter, live in zip(net.adapters, self.live.tolist(), strict=True):
            for squares in (adapter.A.square().sum(1)[:live], adapter.B.square().sum(0)[:live]):  # type: ignore[operator]
                total = total + (squares.flip(0).cumsum(0) + 1e-12).sqrt().sum()
        return GROUP_LASSO * total

    def after_step(self, net: Elastic, step: int, lr: float) -> None:
        """Shrinks to the budget of this step."""
        budget = self.budget(step)
        if budget < self.full:
            self.live.copy_(self._prefix(net, budget).sum(1).long())

    def support(self, net: Elastic, budget: float | None = None) -> Tensor:
        """The live prefix, further cut to `budget` by the same products."""
        if budget is None:
            return (torch.arange(self.r_max) < self.live[:, None]).float()
        return self._prefix(net, budget)

    def _prefix(self, net: Elastic, budget: float) -> Tensor:
        tails = torch.zeros(len(self.modules), self.r_max)
        for i, (_, adapter) in enumerate(net.items()):
            A, B = adapter.lora_factors()
            a, b = (s.flip(0).cumsum(0).flip(0).sqrt() for s in (A.square().sum(1), B.square().sum(0)))
            tails[i, : len(A)] = (a * b).cpu()
        held = (torch.arange(self.r_max) < self.live[:, None]).float()
        return held * within_budget(tails / self.prices[:, None], held, self.prices, budget)
