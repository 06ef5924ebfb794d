"""What a kept result depends on, as one number: the content of tensors, never their identity or version.

`tensor._version` misses writes through `.data`, and an address is reused, so only the content tells whether weights
are still those that a state was computed with. Reading all weights once costs less than one forward.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["fingerprint"]

_WIDTH = 1 << 14
_PRIME = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def fingerprint(tensors: Iterable[Tensor]) -> int:
    """A 64-bit hash of shapes, dtypes and bits: h ← h p + Σ_j r_j w_j mod 2⁶⁴ over blocks of words w.

    The multipliers r are odd and random, so that one changed word always changes the hash, and two unlike contents
    collide with a chance of about 2⁻⁶³ (multilinear hashing; Carter and Wegman, J. Comput. Syst. Sci. 1979).
    """
    h = 0
    for tensor in tensors:
        h = (h * _PRIME + hash((tuple(tensor.shape), str(tensor.dtype)))) & _MASK
        if tensor.numel() == 0:
            continue
        words = _words(tensor.detach())
        multipliers = _multipliers(words.device)
        whole = len(words) // _WIDTH * _WIDTH
        if whole:
            # one product for all blocks, then one more over their sums
            sums = _product(words[:whole].view(-1, _WIDTH), multipliers)
            for low in range(0, len(sums), _WIDTH):
                part = sums[low : low + _WIDTH]
                h = (h * _PRIME + _total(part, multipliers[: len(part)])) & _MASK
        rest = words[whole:]
        h = (h * _PRIME + _total(rest, multipliers[: len(rest)])) & _MASK
    return h


def _words(tensor: Tensor) -> Tensor:
    """The bits as int64 words; what does not fill one is widened."""
    flat = tensor.contiguous().view(-1)
    size = flat.element_size()
    if flat.is_complex() or flat.dtype == torch.bool:
        flat = flat.view(torch.uint8)
        size = 1
    if flat.numel() * size % 8 == 0 and flat.data_ptr() % 8 == 0:
        return flat.view(torch.int64)
    return flat.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]).long()


_kept: dict[str, Tensor] = {}


def _multipliers(device: torch.device) -> Tensor:
    key = str(device)
    if key not in _kept:
        generator = torch.Generator().manual_seed(1979)
        drawn = torch.randint(-(2**62), 2**62, (_WIDTH,), generator=generator) * 2 + 1
        _kept[key] = drawn.to(device)
    return _kept[key]


def _product(blocks: Tensor, multipliers: Tensor) -> Tensor:
    if blocks.device.type == "cpu":
        return blocks @ multipliers
    return (blocks * multipliers).sum(1)  # integer products have no matrix kernel there


def _total(words: Tensor, multipliers: Tensor) -> int:
    return int((words * multipliers).sum()) if len(words) else 0
