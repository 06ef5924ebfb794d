"""Gates: the parameters of policies that relax, their Adam and their proximal step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archrank.supernet.net import Elastic
from archrank.supernet.policies.base import Policy

__all__ = ["Gated", "official_threshold", "soft_threshold"]


def soft_threshold(g: Tensor, xi: Tensor | float) -> Tensor:
    """The proximal map of ξ |g|: sign(g) max(|g| − ξ, 0)."""
    return g.sign() * (g.abs() - xi).clamp(min=0)


def official_threshold(g: Tensor, xi: Tensor | float) -> Tensor:
    """What the released code of SoRA and CoDyRA does in its place: three assignments one after the other.

    g > ξ loses ξ; then, of the result, g < −ξ gains ξ; then, of that result, |g| < ξ becomes 0. So all of |g| < 2 ξ
    dies except ±ξ itself, with a jump of ξ at 2 ξ. For reproduction.
    """
    g = torch.where(g > xi, g - xi, g)
    g = torch.where(g < -xi, g + xi, g)
    return torch.where(g.abs() < xi, torch.zeros_like(g), g)


class Gated(Policy):
    """A policy with one tensor of gates, `(modules, r_max)` unless a policy says otherwise, all at their start value.

    The gates are stepped here, by Adam without decay, at `gate_rate(lr)`; the store's optimizer never sees them.
    """

    nested = False
    betas = (0.9, 0.999)

    def __init__(
        self,
        modules: Mapping[str, tuple[int, int]],
        r_max: int,
        seed: int = 0,
        ranks: Sequence[int] | None = None,
    ) -> None:
        super().__init__(modules, r_max, seed, ranks)
        self.gates = self.start().requires_grad_()
        self.moments = torch.zeros(2, *self.gates.shape)
        self.updates = torch.zeros(1)
        self.collapse = torch.zeros(1)

    def start(self) -> Tensor:
        """The gates before step 0."""
        return self.held()

    def state(self) -> dict[str, Tensor]:
        """Gates, Adam's state, and when they collapsed."""
        return {
            "gates": self.gates.data,
            "moments": self.moments,
            "updates": self.updates,
            "collapse": self.collapse,
        }

    @property
    def collapsed(self) -> int | None:
        """Steps done when a cut would first have left no gate."""
        return int(self.collapse) or None

    def cut(self, gates: Tensor, step: int) -> None:
        """The gates become these; where all of these are 0 the last ones that are not stay."""
        if bool((gates * self.held()).any()):
            self.gates.data.copy_(gates)
        elif not self.collapse:
            self.collapse.fill_(step + 1)

    def learnt(self) -> Sequence[Tensor]:
        """The gates, unless they learn on validation batches."""
        return () if self.bilevel else (self.gates,)

    def spectrum(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """The gates, alike for all samples; gradients reach them."""
        return self.weights().expand(len(samples), -1, -1)

    def weights(self) -> Tensor:
        """`(modules, r_max)`: the relaxed spectrum."""
        return self.gates * self.held()

    def gate_rate(self, lr: float) -> float:
        """At least so much that a gate can cross from 1 to 0 four times in the training, whatever the store's rate."""
        return max(lr, 4 / self.steps) if self.steps else lr

    def gate_gradients(self, loss: Tensor, step: int, store: Sequence[Tensor] = ()) -> Sequence[Tensor | None]:
        """Replaces the gates' gradient by that of a validation loss; returns the store's."""
        own, *others = torch.autograd.grad(loss, [self.gates, *store], allow_unused=True)
        self.gates.grad = own
        return others

    def after_step(self, net: Elastic, step: int, lr: float) -> None:
        """One Adam step of the gates."""
        self.adam(self.gate_rate(lr))

    @torch.no_grad()
    def adam(self, lr: float) -> None:
        """G ← g − lr m̂ / (√v̂ + 10⁻⁸) (Kingma and Ba 2015); the gradient is spent."""
        gradient = self.gates.grad
        if gradient is None:
            return
        (b1, b2), (m, v) = self.betas, self.moments
        self.updates += 1
        n = float(self.updates)
        m.lerp_(gradient, 1 - b1)
        v.lerp_(gradient.square(), 1 - b2)
        self.gates -= lr * (m / (1 - b1**n)) / ((v / (1 - b2**n)).sqrt() + 1e-8)
        self.gates.grad = None

    def support(self, net: Elastic, budget: float | None = None) -> Tensor:
        """The gates that are not 0; under a budget those with the largest |c_j| ‖b_j‖ ‖a_j‖ for their price."""
        from archrank.supernet.policies.base import sizes_of, within_budget

        weights = self.weights().detach()
        if budget is None:
            return weights
        scores = weights.abs() * sizes_of(net, self.r_max) / self.prices[:, None]
        return weights * within_budget(scores, (weights != 0).float(), self.prices, budget)
