"""Where the members of an ensemble leave the trunk that they share, and how unlike their predictions are (NEAS: Chen et
al., One-Shot Neural Ensemble Architecture Search, CVPR 2021).

    loss = Σ_k CE(y_k, labels)        ∂loss/∂trunk = (1/K) Σ_k ∂CE_k/∂trunk        prediction = (1/K) Σ_k y_k

with y_k `(rows, classes)` the logits of member k: every member trains at the rate of a single network, and so does the
trunk that has K of them above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

__all__ = ["Fork", "diversity", "divided", "members_loss"]


class _Divide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, members: int) -> Tensor:
        ctx.members = members
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] / ctx.members, None


def divided(x: Tensor, members: int) -> Tensor:
    """`x` itself; the gradient that goes back through it is divided by `members`."""
    if members == 1 or not (torch.is_grad_enabled() and x.requires_grad):
        return x
    found: Tensor = _Divide.apply(x, members)  # type: ignore[no-untyped-call]
    return found


class Fork(nn.Module):
    """The last op of a trunk with `members` readers."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = members

    def forward(self, x: Tensor) -> Tensor:
        """`x`, its gradient divided by the number of members."""
        return divided(x, self.members)


def members_loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Σ_k of the mean cross-entropy of member k, a scalar; of one member, its cross-entropy to the bit."""
    total = cross_entropy(logits[0], labels)
    for y in logits[1:]:
        total = total + cross_entropy(y, labels)
    return total


def diversity(logits: Sequence[Tensor]) -> Tensor:
    """Mean over pairs of members and over rows of the Jensen–Shannon divergence of their predictions, in nats, from 0
    to ln 2; 0 for one member.

    JS(p, q) = H((p + q) / 2) − (H(p) + H(q)) / 2, with logits `(rows, classes)` of each member (Lin 1991).
    """
    if len(logits) < 2:
        return torch.zeros(())
    p = [y.double().softmax(-1) for y in logits]
    pairs = [_entropy((a + b) / 2) - (_entropy(a) + _entropy(b)) / 2 for a, b in combinations(p, 2)]
    mean: Tensor = torch.stack(pairs).mean()
    return mean.clamp_min(0).float()


def _entropy(p: Tensor) -> Tensor:
    total: Tensor = torch.special.xlogy(p, p).sum(-1)
    return -total
