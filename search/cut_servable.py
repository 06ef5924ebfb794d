"""The sentences of a space over a base's layers as they are served: cut, their adapters merged."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from archrank.grammar import Space
from archrank.grammar.workload import Workload
from archrank.supernet import tracing
from archrank.supernet.base import load_base
from archrank.supernet.cutting import LayerCut, cut_model
from archrank.supernet.encoders import find_layers

__all__ = ["CutEncoders"]


class _Logits(nn.Module):
    """A transformers model of one input, whose output is the tensor of logits."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: Tensor) -> Tensor:
        """(batch, …) → (batch, classes)."""
        logits: Tensor = self.model(**{self.name: x}).logits
        return logits


class CutEncoders:
    """`search.servable.Servable` of a bound `elastic_encoder` space."""

    pool = 100

    def __init__(self, space: Space, batch: int, base: str | None, seq: int) -> None:
        self.space, self.batch, self.seq = space, batch, seq
        self._model: nn.Module = load_base(base).model.eval()

    @cached_property
    def _example(self) -> tuple[str, Tensor]:
        """The name and a value of the one input."""
        ((name, value),) = tracing.example(self._model, self.batch, self.seq).items()
        return name, value

    def workload(self, text: str) -> Workload:
        """Traced on fake tensors."""
        return tracing.workload(self._cut(text), batch=self.batch, seq=self.seq)

    def network(self, text: str, dtype: torch.dtype) -> nn.Module:
        """A cut copy of the base."""
        return _Logits(self._cut(text), self._example[0]).to(dtype).eval()

    def inputs(self, text: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """Token ids are zeros, pictures random."""
        value = self._example[1]
        if not value.is_floating_point():
            return {"x": value}
        return {"x": torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(dtype)}

    def _cut(self, text: str) -> nn.Module:
        choices = self.space.layer_choices(self.space.parse(text))
        cuts = {
            name: LayerCut(tuple(range(choice.heads)), tuple(range(choice.ffn)))
            for name, choice in choices.items()
            if choice.kept
        }
        return cut_model(self._model, find_layers(self._model), cuts)
