"""The low-rank branch of an adapted linear layer under a rank spectrum.

    Δy = B (c ∘ (A x))

`c` weighs the rank-one components b_j a_jᵀ: 1 for the first r and 0 for the rest is LoRA of rank r (Hu et al., LoRA,
ICLR 2022), and a spectrum that differs by sample trains many ranks in one batch. Gradients: dA = (c ∘ Bᵀdy) xᵀ, dB =
dy (c ∘ A x)ᵀ, dx = Aᵀ(c ∘ Bᵀdy), dc = (A x) ∘ (Bᵀdy).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import linear

__all__ = ["masked_lora", "masked_lora_reference", "spectral_lora", "spectral_lora_reference"]


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


def masked_lora_reference(x: Tensor, A: Tensor, B: Tensor, c: Tensor, w: Tensor) -> Tensor:
    """`spectral_lora_reference` with the gradients of A and B restricted to the components of w, by detached copies.

    Shapes: as there, w `(n, R)` or `(1, R)` of 0 and 1. The gradients of x and of c pass all components. B is reached
    through w, and through 1 − w only its copy is.
    """
    live = torch.einsum("...i,ri->...r", x, A)
    dead = torch.einsum("...i,ri->...r", x, A.detach())
    mask, weights = (t.reshape(t.shape[0], *[1] * (x.dim() - 2), t.shape[1]) for t in (w, c))
    h = (mask * live + (1 - mask) * dead) * weights
    kept = torch.einsum("...r,or->...o", h * mask, B)
    return kept + torch.einsum("...r,or->...o", h * (1 - mask), B.detach())


class _MaskedLoRA(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, A: Tensor, B: Tensor, c: Tensor, w: Tensor) -> Tensor:
        h = linear(x, A)
        ctx.save_for_backward(x, A, B, c, w, h)
        return linear(h * c, B)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: FunctionCtx, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, A, B, c, w, h = ctx.saved_tensors  # type: ignore[attr-defined]
        gh = linear(gy, B.t())
        dA = (gh * c * w).flatten(0, -2).t() @ x.flatten(0, -2)
        dB = gy.flatten(0, -2).t() @ (h * c * w).flatten(0, -2)
        dc = (h * gh).sum_to_size(c.shape)
        return linear(gh * c, A.t()), dA, dB, dc, None


def masked_lora(x: Tensor, A: Tensor, B: Tensor, c: Tensor | None, w: Tensor) -> Tensor:
    """The same in two GEMMs: dA = (w ∘ c ∘ Bᵀdy) xᵀ, dB = dy (w ∘ c ∘ A x)ᵀ; dx and dc as without w.

    Shapes as the reference's; c None: all ones.
    """
    c = torch.ones_like(w) if c is None else c
    if not all(t.shape[0] in (1, x.shape[0]) for t in (c, w)):
        raise ValueError(
            f"a spectrum for {c.shape[0]} and a mask for {w.shape[0]} samples met an input of {x.shape[0]} rows: this "
            "module does not see the batch as its first dimension; leave it out of --target-modules"
        )
    wide = [t.view(t.shape[0], *[1] * (x.dim() - 2), t.shape[1]) for t in (c, w)]
    y: Tensor = _MaskedLoRA.apply(x, A, B, *wide)  # type: ignore[no-untyped-call]
    return y
