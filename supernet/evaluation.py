"""What a population of sub-networks loses on a data set, with the weights they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from archrank.supernet.net import Config, Elastic

__all__ = ["evaluate", "evaluation_methods"]


def evaluation_methods() -> tuple[str, ...]:
    """The exact ways to evaluate a population: `loop` runs one sub-network after the other."""
    return ("loop",)


def evaluate(
    net: Elastic, configs: Sequence[Config], data: Sequence[Mapping[str, Tensor]], method: str = "auto"
) -> Tensor:
    """`(n,)` mean losses: Σ rows · loss(batch) / Σ rows for each configuration, in fp64; the base model's own loss."""
    if method not in ("auto", *evaluation_methods()):
        raise ValueError(f"no evaluation method {method!r}; there are: auto, {', '.join(evaluation_methods())}")
    was_training = net.training
    net.eval()
    device = next(net.base.parameters()).device
    batches = [{k: v.to(device) for k, v in batch.items()} for batch in data]
    rows = torch.tensor([len(batch["labels"]) for batch in batches], dtype=torch.float64)
    losses = torch.zeros(len(configs), dtype=torch.float64)
    try:
        with torch.no_grad():
            for i, config in enumerate(configs):
                spectrum = net.spectrum_of(net.ranks(config)).to(device)
                each = [float(getattr(net(spectrum=spectrum, **batch), "loss")) for batch in batches]  # noqa: B009
                losses[i] = (rows * torch.tensor(each, dtype=torch.float64)).sum() / rows.sum()
    finally:
        net.train(was_training)
    return losses
