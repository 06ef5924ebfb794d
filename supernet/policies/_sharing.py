"""One component for all modules of one shape that were left out (LoRA-drop, arXiv 2402.07721; DiffoRA)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from archrank.supernet.canonical_form import canonical
from archrank.supernet.net import Elastic

__all__ = ["with_shared"]


def with_shared(
    net: Elastic, weights: Tensor, chosen: Tensor, modules: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """{module: (A, B)}: the chosen modules' own components, and for the others of each shape one pair.

    The pair is the first component of the canonical form of the mean of their products: argmin over rank-1 D of
    Σ_l ‖ΔW_l − D‖². Each module gets a copy of it. weights `(modules, R)`: spectrum; chosen `(modules,)`: bool.
    """
    found = net.gathered(weights * chosen.float()[:, None])
    rest = net.gathered(weights * (~chosen).float()[:, None])
    by_shape: dict[tuple[int, int], list[str]] = {}
    for name in rest:
        by_shape.setdefault(modules[name], []).append(name)
    for names in by_shape.values():
        A = torch.cat([rest[n][0] for n in names])
        B = torch.cat([rest[n][1] for n in names], dim=1) / len(names)
        a, b = canonical(A, B)
        if a[:1].norm() > 0:
            found |= {name: (a[:1].clone(), b[:, :1].clone()) for name in names}
    return {name: found[name] for name in modules if name in found}
