"""Components masked by sensitivity under a cubic budget (Zhang et al., AdaLoRA, ICLR 2023, arXiv 2303.10512).

c_l = λ_l ∘ m_l; A, B ~ N(0, 0.02) and λ = 0 at the start. Loss + γ · mean over matrices of ‖Bᵀ B − I‖_F and ‖A Aᵀ −
I‖_F (PEFT's form: not squared). Sensitivity I = |w ∂L/∂w|, smoothed Ī and its uncertainty Ū (β = .85 each), s = Ī Ū;
the score of a component is s(λ_j) + mean s(a_j) + mean s(b_j), PEFT's to the digit. From `first` to `last` of the
training the number of live components falls from all to the target (1/3 unless `target` says otherwise) by the cubic
schedule; λ outside the top ones is set to 0 and can come back, since A and B are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.net import Elastic
from archrank.supernet.policies._gates import Gated
from archrank.supernet.policies.base import counter_uniform, within_budget

__all__ = ["AdaLoRA", "sensitivity"]

BETA1, BETA2 = 0.85, 0.85
ORTHOGONALITY = 0.1
FIRST, LAST, EVERY = 0.1, 0.7, 10


def sensitivity(mean: Tensor, spread: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """Ī Ū after one more step; `mean` and `spread` are updated in place, in PEFT's order (Ū from the new Ī)."""
    now = (weight * gradient).abs().detach()
    mean.mul_(BETA1).add_(now, alpha=1 - BETA1)
    spread.mul_(BETA2).add_((now - mean).abs(), alpha=1 - BETA2)
    return mean * spread


class AdaLoRA(Gated):
    """Sensitivity masks."""

    def __init__(
        self,
        modules: Mapping[str, tuple[int, int]],
        r_max: int,
        seed: int = 0,
        ranks: Sequence[int] | None = None,
        target: float = 1 / 3,
    ) -> None:
        super().__init__(modules, r_max, seed, ranks)
        self.target = target
        self.scores = torch.zeros(len(self.modules), r_max)
        self.smoothed: dict[str, Tensor] = {}
        for name, (out, into) in self.modules.items():
            r = min(r_max, out, into)
            for key, shape in (("E", (r,)), ("A", (r, into)), ("B", (out, r))):
                self.smoothed[f"{name}.{key}.mean"] = torch.zeros(shape)
                self.smoothed[f"{name}.{key}.spread"] = torch.zeros(shape)

    def start(self) -> Tensor:
        """λ = 0."""
        return torch.zeros(len(self.modules), self.r_max)

    def state(self) -> dict[str, Tensor]:
        """Gates, scores and smoothed sensitivities."""
        return {**super().state(), "scores": self.scores, **self.smoothed}

    def prepare(self, net: Elastic, steps: int) -> None:
        """A, B ~ N(0, 0.02), from the policy's seed."""
        super().prepare(net, steps)
        generator = torch.Generator().manual_seed(int(counter_uniform(self.seed, 29) * 2**53))
        with torch.no_grad():
            for adapter in net.adapters:
                assert isinstance(adapter, LoRA)
                for p in (adapter.A, adapter.B):
                    p.copy_(0.02 * torch.randn(p.shape, generator=generator))

    def penalty(self, net: Elastic, step: int) -> Tensor | None:
        """γ mean(‖Bᵀ B − I‖_F, ‖A Aᵀ − I‖_F)."""
        terms = []
        for adapter in net.adapters:
            assert isinstance(adapter, LoRA)
            eye = torch.eye(adapter.rank, device=adapter.A.device)
            terms += [(adapter.A @ adapter.A.T - eye).norm(), (adapter.B.T @ adapter.B - eye).norm()]
        return ORTHOGONALITY * torch.stack(terms).mean()

    def after_step(self, net: Elastic, step: int, lr: float) -> None:
        """Scores from the gradients of this step, λ's own step, and the mask every EVERY steps."""
        gradient = self.gates.grad
        self.scores.copy_(self.score(net, torch.zeros_like(self.gates) if gradient is None else gradient))
        self.adam(lr)
        done = step / max(1, self.steps)
        if self.steps and done >= FIRST and step % EVERY == 0:
            live = self.held().sum()
            share = self.target + (1 - self.target) * (1 - min(1.0, (done - FIRST) / (LAST - FIRST))) ** 3
            wanted = max(1.0, float(int(share * live)))
            kept = within_budget(self.scores, self.held(), torch.ones(len(self.modules)), wanted)
            self.gates.data.mul_(kept)

    def score(self, net: Elastic, gradient: Tensor) -> Tensor:
        """S `(modules, r_max)`; `gradient` is λ's."""
        found = torch.full((len(self.modules), self.r_max), -1.0)
        for i, (name, adapter) in enumerate(net.items()):
            assert isinstance(adapter, LoRA)
            r = adapter.rank
            parts = {"E": (self.gates.detach()[i, :r], gradient[i, :r])}
            for key, p in (("A", adapter.A), ("B", adapter.B)):
                slope = p.grad if p.grad is not None else torch.zeros_like(p)
                parts[key] = p.detach().cpu(), slope.cpu()
            s = {
                key: sensitivity(self.smoothed[f"{name}.{key}.mean"], self.smoothed[f"{name}.{key}.spread"], *pair)
                for key, pair in parts.items()
            }
            found[i, :r] = s["E"] + s["A"].mean(1) + s["B"].mean(0)
        return found

    def support(self, net: Elastic, budget: float | None = None) -> Tensor:
        """λ ∘ m; under a budget by the scores for their price."""
        weights = self.weights().detach()
        if budget is None:
            return weights
        return weights * within_budget(self.scores / self.prices[:, None], (weights != 0).float(), self.prices, budget)
