"""One sub-network of an elastic encoder, taken out: a cut copy of the base and the adapters of its linear layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archrank.supernet import cut_export, export
from archrank.supernet.cutting import LayerCut, cut_model, new_names
from archrank.supernet.encoders import LayerModules
from archrank.supernet.export import Home
from archrank.supernet.model_onnx import write_model_onnx

__all__ = ["AdaptedLinear", "CutNetwork"]


class AdaptedLinear(nn.Module):
    """Y = W x + b + B A x, unmerged; A `(r, in)`, B `(out, r)`, all scales folded in."""

    def __init__(self, linear: nn.Linear, A: Tensor, B: Tensor) -> None:
        super().__init__()
        self.linear, self.A, self.B = linear, nn.Parameter(A.clone()), nn.Parameter(B.clone())

    def forward(self, x: Tensor) -> Tensor:
        """`(…, in)` to `(…, out)`."""
        y: Tensor = self.linear(x)
        return y + F.linear(F.linear(x.to(self.A.dtype), self.A), self.B).to(y.dtype)

    def merged(self) -> nn.Linear:
        """An ordinary linear layer with W + B A, added in fp32."""
        found = copy.deepcopy(self.linear)
        with torch.no_grad():
            found.weight.copy_((self.linear.weight.float() + self.B.float() @ self.A.float()).to(found.weight.dtype))
        return found


class CutNetwork:
    """The layers of `cuts` of `base`, cut, with ΔW = B A on the linear layers of `factors`.

    factors: {linear layer of the base: (A (r, in), B (out, r))}, cut to the kept heads and channels; `home`: what an
    exported folder says of its base, and the tokenizer or image processor that goes with it.
    """

    def __init__(
        self,
        base: nn.Module,
        layers: Mapping[str, LayerModules],
        cuts: Mapping[str, LayerCut],
        factors: Mapping[str, tuple[Tensor, Tensor]],
        home: Home | None = None,
    ) -> None:
        self.layers, self.cuts = dict(layers), dict(cuts)
        self.home = home or Home(base_name=str(getattr(getattr(base, "config", None), "name_or_path", "") or ""))
        self._base = base
        names = new_names(layers, list(cuts))
        self.factors = {names[name]: pair for name, pair in factors.items()}

    @property
    def places(self) -> dict[str, str]:
        """{kept layer of the base: its name in the cut model}."""
        return {name: f"{name.rpartition('.')[0]}.{i}" for i, name in enumerate(self.cuts)}

    @cached_property
    def base(self) -> nn.Module:
        """The cut copy of the base, without adapters."""
        return cut_model(self._base, self.layers, self.cuts)

    @cached_property
    def module(self) -> nn.Module:
        """The same with W + B A: an ordinary module of the base's class, made once."""
        return export.merged(self.base, self.factors)

    def unmerged(self) -> nn.Module:
        """A copy of the cut base with its adapters beside it: what the space's closed forms count, and what a
        fine-tune of the adapters trains.
        """
        model = copy.deepcopy(self.base)
        for name, (A, B) in self.factors.items():
            parent, _, leaf = name.rpartition(".")
            linear = model.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            setattr(model.get_submodule(parent), leaf, AdaptedLinear(linear, A, B))
        return model

    def retrained(self, module: nn.Module) -> CutNetwork:
        """The same cut with the weights of `module`, an `unmerged()` that was trained since."""
        base, factors = copy.deepcopy(module), {}
        for name, part in list(base.named_modules()):
            if isinstance(part, AdaptedLinear):
                factors[name] = (part.A.detach(), part.B.detach())
                parent, _, leaf = name.rpartition(".")
                setattr(base.get_submodule(parent), leaf, part.linear)
        fresh = CutNetwork(self._base, self.layers, self.cuts, {}, self.home)
        fresh.factors = factors
        vars(fresh)["base"] = base
        return fresh

    @property
    def ranks(self) -> dict[str, int]:
        """{linear layer of the cut model: rank}; one without an adapter is absent."""
        return {name: A.shape[0] for name, (A, _) in self.factors.items()}

    @property
    def adapter_params(self) -> int:
        """Σ r (in + out) over the adapted linear layers, as they are cut."""
        return sum(A.numel() + B.numel() for A, B in self.factors.values())

    def save_merged(self, folder: str | Path) -> Path:
        """The merged model: an ordinary transformers folder where the model's class can say its widths, else one for
        `load_cut`, which transformers refuses (cut_export.py).
        """
        return cut_export.write(self.module, self.layers, self.cuts, Path(folder), self.home)

    def save_padded(self, folder: str | Path) -> Path:
        """An ordinary transformers folder always: layers narrower than the base's are filled up with zeros, so that
        the answers are the same and the cost is that of full heads and of the widest FFN.
        """
        padded = cut_export.padded(self.module, self._base, self.layers, self.cuts)
        return export.write_merged(padded, Path(folder), self.home)

    def save_pretrained(self, folder: str | Path, base_name: str | None = None) -> Path:
        """A PEFT adapter, and in `FOLDER/base` the cut base that it belongs to (in either form of `save_merged`);
        base_name: what the adapter calls that base (default: its path). ExportRefused where no linear layer is adapted.
        """
        place = Path(folder)
        if not self.factors:
            raise export.ExportRefused("this sub-network has no adapter: it is a cut base alone; use save_merged")
        base = cut_export.write(self.base, self.layers, self.cuts, place / "base", self.home)
        home = Home(base_name or str(base.resolve()), self.home.peft_task, self.home.new_head)
        return export.write_peft(self.base, self.factors, place, home)

    def export_onnx(self, path: str | Path, inputs: Mapping[str, Tensor] | None = None) -> Path:
        """The merged model as ONNX, the batch size free; see `write_model_onnx`."""
        return write_model_onnx(self.module, Path(path), inputs)

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the merged module answers, fp32."""
        with torch.no_grad():
            answer: Tensor = self.module.eval()(**inputs).logits
        return answer.float()
