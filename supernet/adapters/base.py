"""What an adapter family is: a small module beside a frozen linear layer whose capacity is a prefix of its
components.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["AdapterFamily", "check_rank"]


def check_rank(out_features: int, in_features: int, rank: int) -> None:
    """ValueError outside 1 … min(in, out)."""
    limit = min(out_features, in_features)
    if not 1 <= rank <= limit:
        raise ValueError(f"rank {rank} is outside 1 … min(in, out) = {limit} of a {out_features} × {in_features} layer")


class AdapterFamily(nn.Module, ABC):
    """Adds Δy(x) to the output of one linear layer; knows no layer, no base and no model.

    `out_features`, `in_features` are the layer's, `rank` is the number of components held. At creation Δy = 0.
    needs_weight: `bind` must be told the layer's weight; components_add: Δy is a sum over components, so that any
    subset of them is a net of its own.
    """

    needs_weight = False
    components_add = True

    out_features: int
    in_features: int
    rank: int
    scale: float

    @abstractmethod
    def __init__(
        self,
        out_features: int,
        in_features: int,
        rank: int,
        *,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        check_rank(out_features, in_features, rank)
        super().__init__()
        self.out_features, self.in_features, self.rank, self.scale = out_features, in_features, rank, scale

    @abstractmethod
    def forward(self, x: Tensor, spectrum: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Δy `(n, …, out)` for x `(n, …, in)`.

        spectrum `(n | 1, rank)` weighs the components, None is all of them; mask `(n | 1, rank)` of 0 and 1: components
        whose parameters take the sample's gradient, None is all.
        """

    def bind(self, weight: Tensor) -> None:  # most families do not look at the base
        """The weight `(out, in)` of the layer beside which it stands."""

    def add_to(self, output: Tensor, x: Tensor, spectrum: Tensor, *, in_place: bool) -> Tensor:
        """Output + Δy(x) without gradients, `spectrum` as in `forward`.

        `in_place`: the output may be written to. A family overrides this where it knows a shorter way.
        """
        added: Tensor = output + self(x, spectrum).to(output.dtype)
        return added

    def delta_weight(self) -> Tensor:
        """ΔW = B A `(out, in)` in fp32 with x ΔWᵀ = Δy(x): what merging adds to the layer's weight."""
        A, B = self.lora_factors()
        return B @ A

    @abstractmethod
    def sliced(self, rank: int) -> AdapterFamily:
        """A stand-alone copy of the first `rank` components."""

    @abstractmethod
    def lora_factors(self) -> tuple[Tensor, Tensor]:
        """A `(rank, in)`, B `(out, rank)` with ΔW = B A, every scale folded in: what an exported adapter holds."""
