"""Hydra: a parallel and a sequential low-rank branch, Δy = s B (c ∘ [A_p x; A_s W x]) (Kim et al., arXiv 2309.06922).

Components stand in turn: parallel at even places, sequential at odd ones, so that a prefix of r holds ⌈r/2⌉ and
⌊r/2⌋. The sequential branch takes W x without the layer's bias (the paper's takes it with): then the whole is exactly
a LoRA of rank r, A = [A_p; A_s W], which every consumer reads; with the bias an export would need a bias of its own,
which vLLM refuses. A_s W is formed from W (r · out · in per forward), so the base's own forward stays one call.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from archrank.kernels import masked_lora, spectral_lora
from archrank.supernet.adapters.base import AdapterFamily

__all__ = ["Hydra"]


class Hydra(AdapterFamily):
    """A_p `(⌈r/2⌉, in)`, A_s `(⌊r/2⌋, out)`, B `(out, r)`; before `bind` W is a corner of the identity."""

    needs_weight = True

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
        self.A_p, self.A_s = (
            nn.Parameter(
                torch.empty(count, width).uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)
            )
            for count, width in ((rank - rank // 2, in_features), (rank // 2, out_features))
        )
        self.B = nn.Parameter(torch.zeros(out_features, rank))
        self._weight = [torch.eye(out_features, in_features)]  # in a list: no buffer, the base owns it

    def bind(self, weight: Tensor) -> None:
        """W `(out, in)` of the layer beside which it stands."""
        self._weight[0] = weight.detach()

    def rows(self) -> Tensor:
        """`(r, in)`: the rows of A_p and of A_s W in turn."""
        W = self._weight[0].to(self.A_s)
        both = self.A_p.new_zeros(self.rank, self.in_features)
        both[0::2] = self.A_p
        both[1::2] = self.A_s @ W
        return both

    def forward(self, x: Tensor, spectrum: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Δy `(n, …, out)` in x's dtype."""
        A, B = self.rows(), self.B * self.scale
        if mask is not None:
            return masked_lora(x.to(A.dtype), A, B, spectrum, mask).to(x.dtype)
        return spectral_lora(x.to(A.dtype), A, B, spectrum).to(x.dtype)

    def sliced(self, rank: int) -> Hydra:
        """The first `rank` components, copied."""
        small = Hydra(self.out_features, self.in_features, rank, scale=self.scale)
        with torch.no_grad():
            small.A_p.copy_(self.A_p[: rank - rank // 2])
            small.A_s.copy_(self.A_s[: rank // 2])
            small.B.copy_(self.B[:, :rank])
        small.bind(self._weight[0])
        return small.to(self.B.device)

    def lora_factors(self) -> tuple[Tensor, Tensor]:
        """([A_p; A_s W], s B), detached."""
        return self.rows().detach().float(), self.B.detach().float() * self.scale
