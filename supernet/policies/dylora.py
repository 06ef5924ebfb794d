"""One rank b for all modules, drawn anew each step (Valipour et al., DyLoRA, EACL 2023, arXiv 2210.07558).

c_l = 1[j <= b], b uniform over 1 … r_max. `dylora` trains the whole prefix; `dylora:frozen` component b alone (w =
1[j = b]), the others detached as in the paper's scripts. There the optimizer must not touch them either: under AdamW
a zero gradient still moves a row by momentum and decay (in the released code nearly as far as the selected one), so
frozen trains through a row-lazy AdamW (`lazy_adamw.py`). The scale is the store's, alpha / r_max, and not the paper's
alpha / b, which rescales all components whenever one is added.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archrank.supernet.policies.base import Policy, counter_uniform

__all__ = ["DyLoRA"]


class DyLoRA(Policy):
    """One global b, the prefix trained."""

    draws_zero = False

    def b(self, step: int) -> int:
        """1 … r_max, for all samples and modules of a step."""
        return 1 + int(counter_uniform(self.seed, step, 11) * self.r_max)

    def spectrum(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """C `(samples, modules, r_max)`."""
        return self.prefixes(np.full((len(samples), len(self.modules)), self.b(step)))


class Frozen(DyLoRA):
    """One global b, component b trained alone (the last one of a module that has fewer)."""

    def gradient_mask(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> Tensor | None:
        """W = 1[j = min(b, limit)]."""
        last = torch.from_numpy(np.minimum(self.b(step), self.limits)) - 1
        mask = (torch.arange(self.r_max) == last[:, None]).float()
        return mask.expand(len(samples), -1, -1)


VARIANTS = {"frozen": Frozen}
