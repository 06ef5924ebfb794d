"""What the proxies share: a module's logits and loss on a batch, the weights that count, and leaving it as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from archrank.supernet.net import Elastic
from archrank.supernet.tasks import inputs_of

__all__ = ["ProxyError", "finite", "logits_of", "loss_of", "untouched", "weights_of"]


class ProxyError(ValueError):
    """An unknown proxy, or a module or batch that one cannot score."""


def logits_of(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """(rows, …, classes); ProxyError where the module answers with something else."""
    answer = module(**inputs_of(batch))
    logits = getattr(answer, "logits", answer)
    if not isinstance(logits, Tensor) or logits.dim() < 2:
        raise ProxyError(f"{type(module).__name__} answers with {type(answer).__name__}: proxies need logits")
    return logits


def loss_of(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The mean cross-entropy over rows; ProxyError for a batch without labels, or labels that do not fit."""
    labels = batch.get("labels")
    if labels is None:
        raise ProxyError(f"the batch has {', '.join(batch) or 'nothing'}, and no labels: this proxy needs a loss")
    logits = logits_of(module, batch)
    if logits.shape[:-1] != labels.shape:
        raise ProxyError(f"labels {tuple(labels.shape)} do not go with logits {tuple(logits.shape)}: one a row")
    classes = logits.shape[-1]
    if int(labels.max()) >= classes:
        raise ProxyError(f"label {int(labels.max())} is beyond the {classes} classes of the module")
    return cross_entropy(logits.flatten(0, -2), labels.flatten())


def weights_of(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that would be trained (of an `Elastic` net its adapters'); ProxyError where there is none."""
    trained = module.adapters if isinstance(module, Elastic) else module
    found = [p for p in trained.parameters() if p.requires_grad]
    if not found:
        raise ProxyError(f"{type(module).__name__} has no parameter that requires a gradient: nothing to score")
    return found


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """In evaluation mode inside, without dropout, but for batch normalisation, which uses the batch: its running
    statistics say nothing yet. Modes and buffers are put back.
    """
    modes = [(m, m.training) for m in module.modules()]
    buffers = [(b, b.detach().clone()) for b in module.buffers()]
    module.eval()
    for m, _ in modes:
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.train()
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode
        with torch.no_grad():
            for held, before in buffers:
                held.copy_(before)


def finite(name: str, value: float) -> float:
    """ProxyError for what is no number: such a candidate cannot be ranked."""
    if not math.isfinite(value):
        raise ProxyError(f"{name} is {value} for this module: its activations or gradients are not finite")
    return value
