"""A pretrained encoder cut down physically: whole heads, FFN channels and layers taken out of a copy.

Rows of q, k, v and columns of o belong to heads, rows of up and columns of down to channels; biases go with rows.
Attention modules of transformers infer the number of heads from the width (a view of −1 × head width), so a cut layer
runs in the model's own code; the numbers that they keep beside it are corrected too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from archrank.supernet.encoders import ROLES, LayerModules

__all__ = ["LayerCut", "cut_model", "ffn_unit", "kept_rows", "new_names", "resize", "say_depth", "say_ffn"]

HEAD_COUNTS = ("num_attention_heads", "num_heads", "n_heads")


@dataclass(frozen=True, slots=True)
class LayerCut:
    """The heads and channels of one layer that stay, ascending."""

    heads: tuple[int, ...]
    channels: tuple[int, ...]


def kept_rows(modules: LayerModules, cut: LayerCut, role: str) -> tuple[Tensor | None, Tensor | None]:
    """(outputs, inputs) of one of the six linear layers that stay, as indices; None: all of them."""
    sizes = modules.sizes
    if role in ("up", "down"):
        index = None if len(cut.channels) == sizes.ffn else torch.tensor(cut.channels)
    elif len(cut.heads) == sizes.heads:
        index = None
    else:
        index = (torch.tensor(cut.heads)[:, None] * sizes.head + torch.arange(sizes.head)).flatten()
    return (None, index) if role in ("o", "down") else (index, None)


def new_names(layers: Mapping[str, LayerModules], kept: Sequence[str]) -> dict[str, str]:
    """{linear layer of the base: its name after the layers that are not in `kept` are gone}."""
    found = {}
    for position, name in enumerate(n for n in layers if n in set(kept)):
        fresh = f"{name.rpartition('.')[0]}.{position}"
        for role in ROLES:
            found[layers[name].names[role]] = fresh + layers[name].names[role][len(name) :]
    return found


def cut_model(base: nn.Module, layers: Mapping[str, LayerModules], cuts: Mapping[str, LayerCut]) -> nn.Module:
    """A copy of `base` with the layers of `cuts` alone, each cut; the base is not touched."""
    list_name = next(iter(layers)).rpartition(".")[0]
    fresh = nn.ModuleList()
    memo: dict[int, object] = {id(base.get_submodule(list_name)): fresh}  # shared: one configuration
    model = copy.deepcopy(base, memo)
    for name, modules in layers.items():
        if name in cuts:
            block = copy.deepcopy(base.get_submodule(name), memo)
            _cut_block(block, name, modules, cuts[name])
            fresh.append(block)
    for position, block in enumerate(fresh):
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                vars(module)["layer_idx"] = position
    fresh.train(base.training)
    config = getattr(model, "config", None)
    if config is not None:
        _describe(config, layers, cuts)
    return model


def _cut_block(block: nn.Module, name: str, modules: LayerModules, cut: LayerCut) -> None:
    for role in ROLES:
        linear = block.get_submodule(modules.names[role][len(name) + 1 :])
        assert isinstance(linear, nn.Linear)
        outputs, inputs = kept_rows(modules, cut, role)
        weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
        if outputs is not None:
            weight, bias = weight[outputs.to(weight.device)], None if bias is None else bias[outputs.to(bias.device)]
        if inputs is not None:
            weight = weight[:, inputs.to(weight.device)]
        _replace(linear, weight, bias)
    _recount(block, name, modules, len(cut.heads))


def resize(block: nn.Module, name: str, modules: LayerModules, heads: int, ffn: int) -> None:
    """A layer gets the widths of `heads` heads and `ffn` channels; what its weights are is for others to say."""
    _cut_block(block, name, modules, LayerCut(tuple(range(heads)), tuple(range(ffn))))


def _replace(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    flag = linear.weight.requires_grad
    linear.weight = nn.Parameter(weight.clone(), requires_grad=flag)
    if bias is not None:
        linear.bias = nn.Parameter(bias.clone(), requires_grad=flag)
    linear.out_features, linear.in_features = weight.shape


def _recount(block: nn.Module, name: str, modules: LayerModules, heads: int) -> None:
    """What the attention keeps of its number of heads and their joint width."""
    sizes = modules.sizes
    inner = block.get_submodule(modules.names["q"][len(name) + 1 :].rpartition(".")[0])
    for module in (block, inner):
        for key in HEAD_COUNTS:
            if getattr(module, key, None) == sizes.heads:
                setattr(module, key, heads)
        if getattr(module, "all_head_size", None) == sizes.heads * sizes.head:
            vars(module)["all_head_size"] = heads * sizes.head


def say_depth(config: Any, layers: int) -> None:
    """The number of layers, and of the stages that a backbone (BEiT, DINOv2) counts them by."""
    config.num_hidden_layers = layers
    if getattr(config, "stage_names", None):
        config.stage_names = ["stem", *(f"stage{i}" for i in range(1, layers + 1))]
        config.set_output_features_output_indices(out_features=None, out_indices=None)


def say_ffn(config: Any, width: int) -> None:
    """The width of every FFN, where the configuration can say it: DINOv2's names multiples of the hidden size alone."""
    if (unit := ffn_unit(config)) > 1:
        config.mlp_ratio = width // unit if width % unit == 0 else config.mlp_ratio
        return
    setattr(config, "intermediate_size" if hasattr(config, "intermediate_size") else "hidden_dim", width)


def ffn_unit(config: Any) -> int:
    """What the FFN widths that a configuration can say are multiples of."""
    ratio = hasattr(config, "mlp_ratio") and not hasattr(config, "intermediate_size")
    return int(config.hidden_size) if ratio else 1


def _describe(config: Any, layers: Mapping[str, LayerModules], cuts: Mapping[str, LayerCut]) -> None:
    """The configuration says what it can: the number of layers, and widths that all layers have."""
    say_depth(config, len(cuts))
    sizes = next(iter(layers.values())).sizes
    ffn = {len(cut.channels) for cut in cuts.values()}
    heads = {len(cut.heads) for cut in cuts.values()}
    if len(ffn) == 1:
        say_ffn(config, ffn.pop())
    if len(heads) == 1 and heads != {sizes.heads}:
        config.num_attention_heads = heads.pop()
        config.head_dim = sizes.head
