"""A gate for each component and a threshold that rises in steps, without a penalty in the loss (CoDyRA, arXiv
2412.01004).

c_l = g_l. Dense for half of the training, then g ← soft_threshold(g, κ) after each step, κ in eight steps from 0 to
κ_max; κ_max = 0.005 · 500 / steps, so that the whole shrinkage is that of the paper's 500 iterations. Gates start at
1; `codyra:official` takes the released three-line threshold, which kills everything below 2 κ, instead of the
proximal map. A threshold that would leave no gate at all is not applied.
"""

from __future__ import annotations

from torch import Tensor

from archrank.supernet.net import Elastic
from archrank.supernet.policies._gates import Gated, official_threshold, soft_threshold
from archrank.supernet.policies._schedule import DENSE

__all__ = ["CoDyRA"]

KAPPA, STEPS, LEVELS = 0.005, 500, 8


class CoDyRA(Gated):
    """Sparse gates by a stepped threshold."""

    def kappa(self, step: int) -> float:
        """The threshold after a step."""
        done = (step + 1 - DENSE * self.steps) / max(1.0, (1 - DENSE) * self.steps)
        if self.steps <= 0 or done <= 0:
            return 0.0
        return KAPPA * STEPS / self.steps * min(LEVELS - 1, int(LEVELS * done)) / (LEVELS - 1)

    def after_step(self, net: Elastic, step: int, lr: float) -> None:
        """Adam, then the threshold."""
        self.adam(lr)
        if kappa := self.kappa(step):
            self.cut(self.threshold(kappa), step)

    def threshold(self, kappa: float) -> Tensor:
        """The gates after it."""
        return soft_threshold(self.gates.data, kappa)


class Official(CoDyRA):
    """The released threshold."""

    def threshold(self, kappa: float) -> Tensor:
        """The three lines."""
        return official_threshold(self.gates.data, kappa)


VARIANTS = {"official": Official, "soft": CoDyRA}
