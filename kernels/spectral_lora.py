"""The low-rank branch of an adapted linear layer under a rank spectrum.

    Δy = B (c ∘ (A x))

`c` weighs the rank-one components b_j a_jᵀ: 1 for the first r and 0 for the rest is LoRA of rank r (Hu et al., LoRA,
ICLR 2022), and a spectrum that differs by sample trains many ranks in one batch. Gradients: dA = (c ∘ Bᵀdy) xᵀ, dB =
dy (c ∘ A x)ᵀ, dx = Aᵀ(c ∘ Bᵀdy), dc = (A x) ∘ (Bᵀdy).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

__all__ = ["spectral_lora", "spectral_lora_reference"]


def spectral_lora_reference(x: Tensor, A: Tensor, B: Tensor, c: Tensor | None) -> Tensor:
    """Δy = (c ∘ (x Aᵀ)) Bᵀ, written as the formula.

    Shapes: x `(n, …, in)`, A `(R, in)`, B `(out, R)`, c `(n, R)`, `(1, R)` or None for all ones; returns `(n, …, out)`.
    """
    h = torch.einsum("...i,ri->...r", x, A)
    if c is not None:
        h = h * c.reshape(c.shape[0], *[1] * (h.dim() - 2), c.shape[1])
    return torch.einsum("...r,or->...o", h, B)


def spectral_lora(x: Tensor, A: Tensor, B: Tensor, c: Tensor | None) -> Tensor:
    """The same by two GEMMs at full rank and one broadcast multiply: the mask costs less than gathering rows would.

    Shapes and errors as the reference's; ValueError when `c` has another number of samples than `x`.
    """
    h = linear(x, A)
    if c is not None:
        if c.shape[0] not in (1, x.shape[0]):
            raise ValueError(
                f"a spectrum for {c.shape[0]} samples met an input of {x.shape[0]} rows: this module does not see the "
                "batch as its first dimension; leave it out of --target-modules"
            )
        h = h * c.view(c.shape[0], *[1] * (h.dim() - 2), c.shape[1])
    return linear(h, B)
