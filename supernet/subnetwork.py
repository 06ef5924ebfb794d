"""One sub-network, taken out of a supernet: low-rank factors over a base, on their way to a module or a folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from archrank.supernet import export
from archrank.supernet.export import Home
from archrank.supernet.model_onnx import write_model_onnx

__all__ = ["SubNetwork"]


class SubNetwork:
    """`base` with ΔW_l = B_l A_l on the modules of `factors`.

    factors: {module: (A (r, in), B (out, r))}, all scales folded in; `home`: what an exported folder says of its base.
    """

    def __init__(self, base: nn.Module, factors: Mapping[str, tuple[Tensor, Tensor]], home: Home | None = None) -> None:
        self.base = base
        self.factors = dict(factors)
        self.home = home or Home(base_name=str(getattr(getattr(base, "config", None), "name_or_path", "") or ""))

    @property
    def ranks(self) -> dict[str, int]:
        """{module: rank}; a module left alone is absent."""
        return {name: A.shape[0] for name, (A, _) in self.factors.items()}

    @property
    def adapter_params(self) -> int:
        """Σ r (in + out) over the adapted modules."""
        return sum(A.numel() + B.numel() for A, B in self.factors.values())

    @cached_property
    def module(self) -> nn.Module:
        """The merged model: a copy of the base with W + B A, an ordinary module without a trace of archrank; made
        once, on first use.
        """
        return export.merged(self.base, self.factors)

    def save_pretrained(self, folder: str | Path) -> Path:
        """A PEFT adapter with one rank a module; ValueError when no module is adapted."""
        return export.write_peft(self.base, self.factors, Path(folder), self.home)

    def save_uniform(self, folder: str | Path) -> Path:
        """The same adapter padded with zeros to its largest rank: for consumers that know one rank only."""
        return export.write_peft(self.base, export.zero_padded(self.factors), Path(folder), self.home)

    def save_merged(self, folder: str | Path) -> Path:
        """An ordinary transformers folder of the merged model."""
        return export.write_merged(self.module, Path(folder), self.home)

    def export_onnx(self, path: str | Path, inputs: Mapping[str, Tensor] | None = None) -> Path:
        """The merged model as ONNX, the batch size free; see `write_model_onnx`."""
        return write_model_onnx(self.module, Path(path), inputs)

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the merged module answers, fp32."""
        with torch.no_grad():
            answer: Tensor = copy.copy(self.module.eval())(**inputs).logits
        return answer.float()
