"""Factors of any rank to the ranks that a space allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.canonical_form import canonical

__all__ = ["to_allowed"]

Factors = Mapping[str, tuple[Tensor, Tensor]]


def to_allowed(
    factors: Factors, shapes: Mapping[str, tuple[int, int]], allowed: Sequence[int], seed: int = 0
) -> dict[str, tuple[Tensor, Tensor]]:
    """Each module at the allowed rank nearest to its own in the logarithm, at most min(in, out).

    Canonical, so that what is cut is the least; a module is padded by components that are zero in B and random in A, as
    LoRA starts, so that they can be trained. allowed: with 0 where a module may be left alone; where it may not, a
    module without a component gets the smallest rank.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for place, (name, (out, into)) in enumerate(shapes.items()):
        A, B = factors.get(name, (torch.zeros(0, into), torch.zeros(out, 0)))
        choices = [r for r in allowed if r <= min(out, into)]
        rank = _nearest(len(A), choices)
        if not rank:
            continue
        a, b = canonical(A, B) if len(A) else (A, B)
        if rank > len(a):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + place)
            fresh = LoRA(out, into, rank, generator=generator).A.detach()[len(a) :].to(A.device)
            a = torch.cat([a, fresh])
            b = torch.cat([b, b.new_zeros(out, rank - b.shape[1])], dim=1)
        found[name] = a[:rank].contiguous(), b[:, :rank].contiguous()
    return found


def _nearest(rank: int, choices: Sequence[int]) -> int:
    if rank == 0:
        return min(choices)
    positive = [r for r in choices if r > 0]
    return min(positive, key=lambda r: (abs(math.log(r / rank)), r))
