"""Modules whose low-rank output is large keep their own adapter, the others share one (Zhou et al., LoRA-drop, arXiv
2402.07721).

c = 1: one r_max LoRA is trained. The importance of module l is E‖ΔW_l x_l‖² over the inputs that `observe` was given
(‖ΔW_l‖² before that: inputs taken as white). The most important modules whose shares sum to 90 % keep all components;
those of one shape that are left out share one component (`_sharing.py`). Under a budget modules come by importance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from archrank.supernet.net import Elastic
from archrank.supernet.policies._sharing import with_shared
from archrank.supernet.policies.full import Full
from archrank.supernet.spectra import second_moments

__all__ = ["LoRADrop"]

SHARE = 0.9


class LoRADrop(Full):
    """Keep or share, by output energy."""

    switches_modules = True
    moments: Mapping[str, Tensor] | None = None

    def observe(self, net: Elastic, batches: Sequence[Mapping[str, Tensor]]) -> None:
        """Second moments of the modules' inputs on these batches."""
        self.moments = second_moments(net.base, net.names, batches)

    def importance(self, net: Elastic) -> Tensor:
        """`(modules,)` of E‖ΔW_l x_l‖² = tr(ΔW_l C_l ΔW_lᵀ)."""
        found = []
        for name, adapter in net.items():
            A, B = (t.double().cpu() for t in adapter.lora_factors())
            C = (self.moments or {}).get(name)
            inner = A @ A.T if C is None else A @ C.double().cpu() @ A.T
            found.append(float((B @ inner * B).sum()))
        return torch.tensor(found)

    def chosen(self, net: Elastic, budget: float | None) -> Tensor:
        """Bool `(modules,)`."""
        importance = self.importance(net)
        order = torch.sort(importance, descending=True, stable=True).indices.tolist()
        kept, left = torch.zeros(len(order), dtype=torch.bool), budget
        wanted = SHARE * float(importance.sum())
        seen = 0.0
        for place in order:
            price = float(self.limits[place] * self.prices[place])
            if left is None:
                if seen >= wanted and kept.any():
                    break
                kept[place] = True
            elif price <= left:
                kept[place], left = True, left - price
            seen += float(importance[place])
        return kept

    def support(self, net: Elastic, budget: float | None = None) -> Tensor:
        """All components of the modules that keep their own."""
        return self.held() * self.chosen(net, budget)[:, None]

    def factors(self, net: Elastic, budget: float | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Own components, and one shared by those of a shape that were left out."""
        copies = float(self.prices.sum())
        if budget is not None and budget <= copies:
            return super().factors(net, budget)
        chosen = self.chosen(net, None if budget is None else budget - copies)
        return with_shared(net, self.held(), chosen, self.modules)
