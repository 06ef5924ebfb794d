"""A supernet as it travels: its structure without weights, and the weights as arrays that a node keeps once.

NumPy arrays in the object store are mapped into every worker of a node, not copied; tensors would be. So W workers on
one node hold the base once, as read-only views, which a frozen base never writes to.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from archrank.supernet.net import KEPT_BYTES, Elastic
from archrank.supernet.states import StateCache

__all__ = ["Weights", "arrays_of", "skeleton_of", "tensors_of", "with_weights"]

Weights = Sequence[tuple[str, NDArray[Any]]]
"""(dtype's name, array) of each parameter, then of each buffer, in the order in which a module tells them."""


_AS_WORDS = {  # integers whose bits stand for dtypes that NumPy lacks
    torch.bfloat16: torch.int16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
}


def _all(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def skeleton_of(net: Elastic) -> Elastic:
    """A copy of the net whose tensors have shapes and no content; its space stays at home."""
    memo: dict[int, Any] = {id(net.space): None, id(net.states): StateCache(KEPT_BYTES), id(net._chain): None}
    for tensor in _all(net):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(net, memo)


def arrays_of(tensors: Sequence[Tensor]) -> list[tuple[str, NDArray[Any]]]:
    """The tensors' content with the names of their dtypes."""
    found = []
    for t in tensors:
        plain = t.detach().cpu().contiguous()
        found.append((str(t.dtype), plain.view(_AS_WORDS.get(t.dtype, t.dtype)).numpy()))
    return found


def tensors_of(weights: Weights) -> list[Tensor]:
    """Views of the arrays as tensors; who writes to them has to copy first."""
    found = []
    for name, array in weights:
        with warnings.catch_warnings():
            # views of the object store are read-only, which torch cannot express
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
            tensor = torch.from_numpy(np.asarray(array))
        found.append(tensor.view(getattr(torch, name.removeprefix("torch."))))
    return found


def with_weights(skeleton: Elastic, weights: Weights, device: str) -> Elastic:
    """The net again: the skeleton with these tensors in place of its empty ones, on `device`."""
    given = {id(old): new for old, new in zip(_all(skeleton), tensors_of(weights), strict=True)}
    for module in skeleton.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(given[id(p)], p.requires_grad)
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = given[id(b)]
    skeleton.to(device)
    skeleton.eval()
    return skeleton
