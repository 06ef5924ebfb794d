"""What the inputs of a base's modules look like: their second moments, for orderings that heed the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from archrank.supernet.tasks import inputs_of

__all__ = ["WIDEST", "second_moments"]

WIDEST = 4096
"""Inputs above which no `(in, in)` matrix is kept: 64 MiB each in fp32."""


def second_moments(
    model: nn.Module, modules: Sequence[str], batches: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """{module: E[x xᵀ] (in, in)} over all rows and tokens of `batches`, fp32; modules wider than WIDEST left out."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().float().flatten(0, -2)
            if x.shape[1] > WIDEST:
                return
            found = x.T @ x
            sums[name] = sums[name] + found if name in sums else found
            counts[name] = counts.get(name, 0) + len(x)

        return see

    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in modules]
    try:
        with torch.no_grad():
            for batch in batches:
                model(**inputs_of(batch))
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in sums.items()}
