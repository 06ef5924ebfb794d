"""Gates learnt to second order: through one unrolled step of the store that they weigh.

The upper level wants gates α whose trained store does well on validation data, min_α F(w*(α), α), where w*(α) minimises
the training loss L(·, α). One step stands for the whole training (Liu et al., DARTS, ICLR 2019, eq. 6–8; Zhang et al.,
AutoLoRA, NAACL 2024):

    w*(α) ≈ w' = w − ξ ∇_w L(w, α)
    d/dα F(w', α) = ∇_α F(w', α) − ξ ∇²_{α,w} L(w, α) v,   v = ∇_w' F(w', α)
                  ≈ ∇_α F(w', α) − ξ (∇_α L(w + ε v, α) − ∇_α L(w − ε v, α)) / 2 ε,   ε = 0.01 / ‖v‖

The difference quotient spares the Hessian; its error falls with ε². Beside the training pass whose gradient the step
takes anyway this costs one pass on validation data, two on training data, and a copy of the store. To first order (ξ =
0) the pass on validation data is all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["STRETCH", "unrolled_gradient"]

STRETCH = 0.01
"""ε ‖v‖: how far the store is moved each way (DARTS, section 2.3)."""


def unrolled_gradient(
    store: Sequence[Tensor],
    slopes: Sequence[Tensor | None],
    rate: float,
    upper: Callable[[], tuple[Tensor, Sequence[Tensor | None]]],
    lower: Callable[[], Tensor],
) -> Tensor:
    """d/dα F(w − ξ ∇_w L, α) in the gates' shape.

    store: w, moved in place and put back to the bit; slopes: ∇_w L(w, α), None for 0; rate: ξ; upper: () -> (∇_α F,
    ∇_w F) and lower: () -> ∇_α L, each at the store as it then is.
    """
    before = [w.detach().clone() for w in store]
    try:
        _move(store, before, slopes, -rate)
        direct, found = upper()
        norm = math.sqrt(sum(float(v.square().sum()) for v in found if v is not None))
        if not rate or not 0 < norm < math.inf:
            return direct
        ends = []
        for epsilon in (STRETCH / norm, -STRETCH / norm):
            _move(store, before, found, epsilon)
            ends.append(lower())
        return direct - rate * (ends[0] - ends[1]) / (2 * STRETCH / norm)
    finally:
        _move(store, before, [None] * len(before), 0.0)


@torch.no_grad()
def _move(store: Sequence[Tensor], before: Sequence[Tensor], by: Sequence[Tensor | None], scale: float) -> None:
    for w, old, v in zip(store, before, by, strict=True):
        w.copy_(old if v is None else old + scale * v)
