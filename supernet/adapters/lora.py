"""LoRA: ΔW = s B A, rank r of one linear layer (Hu et al., LoRA, ICLR 2022).

`s = α / r_max` is one constant for all ranks, so that the function of rank b + 1 is the function of rank b plus one
component: with s = α / r each added component would rescale all others, and inherited weights would be worse
(docs/supernet.md has the comparison's source). A starts from a uniform distribution of bound 1/√in (Kaiming with a =
√5), B from zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from archrank.kernels import masked_lora, spectral_lora
from archrank.supernet.adapters.base import AdapterFamily

__all__ = ["LoRA"]


class LoRA(AdapterFamily):
    """Δy = s B (c ∘ (A x)); A `(rank, in)`, B `(out, rank)`; parameters rank · (in + out)."""

    def __init__(
        self,
        out_features: int,
        in_features: int,
        rank: int,
        *,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(out_features, in_features, rank, scale=scale)
        bound = 1 / math.sqrt(in_features)
        self.A = nn.Parameter(torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator))
        self.B = nn.Parameter(torch.zeros(out_features, rank))

    @classmethod
    def of(cls, A: Tensor, B: Tensor) -> LoRA:
        """The module of given factors, copied; scale 1."""
        made = cls(len(B), A.shape[1], len(A))
        with torch.no_grad():
            made.A.copy_(A)
            made.B.copy_(B)
        return made.to(A.device)

    def forward(self, x: Tensor, spectrum: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Δy `(n, …, out)` in x's dtype; the factors stay fp32, as PEFT keeps them beside a bf16 base."""
        B = self.B if self.scale == 1 else self.B * self.scale
        if mask is not None:
            return masked_lora(x.to(self.A.dtype), self.A, B, spectrum, mask).to(x.dtype)
        return spectral_lora(x.to(self.A.dtype), self.A, B, spectrum).to(x.dtype)

    def add_to(self, output: Tensor, x: Tensor, spectrum: Tensor, *, in_place: bool) -> Tensor:
        """Added by the second GEMM itself (y ← y + h Bᵀ), so that Δy is never stored; `forward`'s bits, since both run
        all components.
        """
        B = self.B if self.scale == 1 else self.B * self.scale
        h = linear(x.to(self.A.dtype), self.A)
        h *= spectrum.view(spectrum.shape[0], *[1] * (h.dim() - 2), self.rank)
        if in_place and output.dtype == B.dtype and output.is_contiguous():
            output.view(-1, self.out_features).addmm_(h.view(-1, self.rank), B.t())
            return output
        return output + linear(h, B).to(output.dtype)

    def sliced(self, rank: int) -> LoRA:
        """The first `rank` components, copied."""
        small = LoRA(self.out_features, self.in_features, rank, scale=self.scale)
        with torch.no_grad():
            small.A.copy_(self.A[:rank])
            small.B.copy_(self.B[:, :rank])
        return small.to(self.A.device)

    def lora_factors(self) -> tuple[Tensor, Tensor]:
        """(A, s B), detached."""
        return self.A.detach().float(), self.B.detach().float() * self.scale
