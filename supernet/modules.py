"""Which modules of a base can carry an adapter, under PEFT's names for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archrank.grammar import match_modules

__all__ = ["ModuleError", "adaptable", "effective_weight", "target_modules"]


class ModuleError(ValueError):
    """A pattern that names no module, or cannot be read."""


def adaptable(model: nn.Module) -> dict[str, tuple[int, int]]:
    """{name: (out_features, in_features)} of every linear layer: nn.Linear, and transformers' Conv1D, whose weight is
    (in, out).
    """
    found: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = (module.out_features, module.in_features)
        elif type(module).__name__ == "Conv1D":
            weight = module.weight
            assert isinstance(weight, nn.Parameter)
            found[name] = (weight.shape[1], weight.shape[0])
    return found


def target_modules(model: nn.Module, pattern: str, new_head: tuple[str, ...] = ()) -> dict[str, tuple[int, int]]:
    """The modules that `pattern` selects, in model order.

    `all-linear` is every linear layer of the repeated blocks: a name with a number in it. That leaves out heads,
    poolers and output embeddings, whatever a model calls them, as PEFT's all-linear leaves out the head. ModuleError
    lists near names where nothing matches.
    """
    shapes = adaptable(model)
    names = [n for n in shapes if not any(n == head or n.startswith(f"{head}.") for head in new_head)]
    blocks = [n for n in names if any(part.isdigit() for part in n.split("."))]
    try:
        chosen = match_modules(pattern, names, blocks)
    except ValueError as error:
        raise ModuleError(str(error)) from None
    return {name: shapes[name] for name in chosen}


def effective_weight(module: nn.Module, out_features: int, in_features: int) -> Tensor:
    """W `(out, in)` of a linear layer; of a quantised one what its own forward does to the identity."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, nn.Parameter) and weight.is_floating_point() and weight.dim() == 2:
        return weight.detach().T if type(module).__name__ == "Conv1D" else weight.detach()
    with torch.no_grad():
        device = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
        eye = torch.eye(in_features, device=device)
        found: Tensor = (module(eye) - module(torch.zeros_like(eye[:1]))).T
    return found
