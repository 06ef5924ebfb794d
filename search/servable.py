"""What the sentences of a space run where they are served: the workload that a device prices, and the torch module that
a machine times.

An architecture's sentence is a network by itself. A sentence over the layers of a base (`elastic_encoder`) is the base
with fewer layers, heads and channels and its adapters merged; which heads stay does not change a time, so the first of
them do, and no importance is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from archrank.grammar import Space
from archrank.grammar.workload import Workload

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["Servable", "ServingError", "servable"]


class ServingError(ValueError):
    """A space whose sentences are nothing that could be served and timed."""


class Servable(Protocol):
    """`pool`: how many sampled sentences are cheap enough to price."""

    @property
    def pool(self) -> int: ...

    def workload(self, text: str) -> Workload:
        """The sentence's op costs at the batch."""

    def network(self, text: str, dtype: torch.dtype) -> nn.Module:
        """In eval mode, with weights that mean nothing; its forward takes `inputs` by name."""

    def inputs(self, text: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """Whole numbers are zeros, floats random."""


def servable(space: Space, batch: int, base: str | None = None, seq: int = 128) -> Servable:
    """`base`, `seq`: for a space over a base's layers (the embedded base by default). ServingError where sentences are
    neither architectures nor cut encoders.
    """
    if space.is_layer_space:
        from archrank.search.cut_servable import CutEncoders

        return CutEncoders(space, batch, base, seq)
    if space.is_architecture_space:
        return _Architectures(space, batch)
    raise ServingError(
        f"{space.name}: its sentences are no architectures by themselves, so there is nothing to time: calibrate with "
        "a space that has //@ input, or with elastic_encoder and --base"
    )


class _Architectures:
    pool = 1000

    def __init__(self, space: Space, batch: int) -> None:
        self.space, self.batch = space, batch

    def workload(self, text: str) -> Workload:
        return self.space.elaborate(self.space.parse(text)).workload(self.batch)

    def network(self, text: str, dtype: torch.dtype) -> nn.Module:
        from archrank import supernet

        return supernet.build(self.space.elaborate(self.space.parse(text)), seed=0).to(dtype).eval()

    def inputs(self, text: str, dtype: torch.dtype) -> dict[str, Tensor]:
        import torch

        shape = (self.batch, *self.space.elaborate(self.space.parse(text)).input)
        if len(shape) == 2:
            return {"x": torch.zeros(shape, dtype=torch.long)}
        return {"x": torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)}
