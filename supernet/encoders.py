"""The layers of a BERT- or ViT-like encoder: where their heads and FFN stand, whatever a model calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from archrank.grammar import EncoderLayer

__all__ = ["EncoderError", "LayerModules", "encoder_layers", "find_layers"]

ROLES = ("q", "k", "v", "o", "up", "down")


class EncoderError(ValueError):
    """A base whose layers do not show heads and FFN."""


@dataclass(frozen=True, slots=True)
class LayerModules:
    """One layer: its sizes, and the full name of each of its six linear layers by role q, k, v, o, up, down."""

    sizes: EncoderLayer
    names: Mapping[str, str]


def find_layers(model: nn.Module) -> dict[str, LayerModules]:
    """The repeated layers of an encoder by their full names, in model order.

    A layer is an item of a ModuleList with exactly six linear layers of the shapes of self-attention and of a
    two-layer FFN: three (inner, hidden), (hidden, inner), (ffn, hidden), (hidden, ffn). Heads come from the model's
    configuration. EncoderError says what was found instead.
    """
    heads = _heads(model)
    for list_name, blocks in model.named_modules():
        if isinstance(blocks, nn.ModuleList) and len(blocks) and _linears(blocks[0]):
            return {f"{list_name}.{i}": _layer(f"{list_name}.{i}", block, heads) for i, block in enumerate(blocks)}
    raise EncoderError(
        f"{type(model).__name__} has no list of layers with linear layers; BERT- and ViT-like models have"
    )


def encoder_layers(model: nn.Module) -> dict[str, EncoderLayer]:
    """The sizes of each layer, for `Space.bind_layers`."""
    return {name: layer.sizes for name, layer in find_layers(model).items()}


def _heads(model: nn.Module) -> int:
    config = getattr(model, "config", None)
    for name in ("num_attention_heads", "n_heads"):
        found = getattr(config, name, None)
        if isinstance(found, int) and found > 0:
            return found
    raise EncoderError(f"{type(model).__name__}: its configuration names no num_attention_heads")


def _linears(block: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}


def _layer(name: str, block: nn.Module, heads: int) -> LayerModules:
    linears = _linears(block)
    shapes = [(linear.out_features, linear.in_features) for linear in linears.values()]
    if len(shapes) == len(ROLES):
        (inner, hidden), (ffn, _) = shapes[0], shapes[4]
        wanted = [(inner, hidden)] * 3 + [(hidden, inner), (ffn, hidden), (hidden, ffn)]
        if shapes == wanted and inner % heads == 0:
            sizes = EncoderLayer(hidden, heads, inner // heads, ffn)
            return LayerModules(sizes, dict(zip(ROLES, (f"{name}.{n}" for n in linears), strict=True)))
    listed = ", ".join(f"{n} {shape}" for n, shape in zip(linears, shapes, strict=True))
    raise EncoderError(
        f"{name} is no layer of a BERT- or ViT-like encoder: q, k, v, o and two FFN layers with {heads} equal heads "
        f"are wanted; it has {listed}"
    )
