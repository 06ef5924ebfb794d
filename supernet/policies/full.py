"""All components of all modules always: one LoRA of rank r_max, whose canonical form is sliced afterwards.

c = 1. The run that a user knows, and prefixes that were never trained: they are made by the canonical form
(Frobenius-optimal). A finalist so begins as the best approximation of a finished adapter, needs a quarter of its
training to mend, and learns its answers meanwhile (supernet/teaching.py). In the pilot Kendall τ at equal parameters
was .46 after short fine-tunes, against .48–.53 for `mixed`; at equal total training its finalists are better
(docs/ranks.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from archrank.supernet.policies.base import Policy

__all__ = ["Full"]


class Full(Policy):
    """One r_max LoRA."""

    nested = False
    runs = 1.0
    tune_share = 0.25
    teaches = True

    def spectrum(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Ones up to each module's limit."""
        return self.held().expand(len(samples), -1, -1)
