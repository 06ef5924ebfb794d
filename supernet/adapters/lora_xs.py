"""LoRA-XS: a full core on frozen orthonormal bases, Δy = s B (c ∘ C (c ∘ A x)); C alone is trained.

XS (Bałazy et al. 2024, arXiv 2405.17604): B and A from the truncated SVD of W, C = 0; `bind` does that. SB (Ponkshe
et al. 2024, arXiv 2411.19557): B, C = diag(σ), A from the truncated SVD of the first update −η sign(mean gradient),
as the released code takes it; `start_from` does that. A prefix of r is the leading r × r block. Exported it is a LoRA
with A and B C, r (in + out) numbers for r² trained ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from archrank.supernet.adapters.base import AdapterFamily

__all__ = ["LoRAXS"]


class LoRAXS(AdapterFamily):
    """C `(r, r)` trained, A `(r, in)` and B `(out, r)` frozen; before `bind` the bases are random orthonormal ones."""

    needs_weight = True
    components_add = False

    A: Tensor
    B: Tensor

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
        bases = [torch.linalg.qr(torch.randn(n, rank, generator=generator))[0] for n in (in_features, out_features)]
        self.register_buffer("A", bases[0].T.contiguous())
        self.register_buffer("B", bases[1].contiguous())
        self.C = nn.Parameter(torch.zeros(rank, rank))

    def bind(self, weight: Tensor) -> None:
        """Bases of the r largest singular values of W `(out, in)`, C = 0."""
        self._bases(weight)
        with torch.no_grad():
            self.C.zero_()

    def start_from(self, update: Tensor) -> None:
        """SB: bases and core of the truncated SVD of an update `(out, in)`; Δy starts as that update's best
        approximation.
        """
        S = self._bases(update)
        with torch.no_grad():
            self.C.copy_(torch.diag(S / self.scale))

    def _bases(self, matrix: Tensor) -> Tensor:
        U, S, Vh = torch.linalg.svd(matrix.detach().double().cpu(), full_matrices=False)
        r = self.rank
        self.B.copy_(U[:, :r])
        self.A.copy_(Vh[:r])
        kept: Tensor = S[:r].to(self.C)
        return kept

    def forward(self, x: Tensor, spectrum: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Δy `(n, …, out)` in x's dtype."""
        if mask is not None:
            raise ValueError("lora_xs: a core has no components of its own to freeze; choose a policy without a mask")
        h = linear(x.to(self.A.dtype), self.A)
        c = None if spectrum is None else spectrum.view(len(spectrum), *[1] * (h.dim() - 2), self.rank)
        h = linear(h if c is None else h * c, self.C)
        y: Tensor = linear(h if c is None else h * c, self.B * self.scale)
        return y.to(x.dtype)

    def sliced(self, rank: int) -> LoRAXS:
        """The leading block, copied."""
        small = LoRAXS(self.out_features, self.in_features, rank, scale=self.scale)
        with torch.no_grad():
            small.A.copy_(self.A[:rank])
            small.B.copy_(self.B[:, :rank])
            small.C.copy_(self.C[:rank, :rank])
        return small.to(self.C.device)

    def lora_factors(self) -> tuple[Tensor, Tensor]:
        """(A, s B C), detached."""
        return self.A.float(), (self.B @ self.C.detach()).float() * self.scale
