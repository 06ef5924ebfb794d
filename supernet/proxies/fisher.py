"""Fisher at the gate: Σ over gates of ½ · mean over rows of (∂L_row / ∂c)², with a gate c = 1 on each unit.

Theis et al. 2018, arXiv 1801.05787, equation 8. In an `Elastic` net a unit is a component of an adapter (its rank
spectrum c, supernet/net.py); in any other network an output channel of a convolution or a feature of a linear layer:
∂L/∂c = Σ over positions of a ∂L/∂a (Turner et al. 2020, arXiv 1906.04113). An adapter whose B is zero has no Fisher at
its gates: score a net with trained or inherited weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from archrank.supernet.net import Elastic
from archrank.supernet.proxies.base import ProxyError, finite, loss_of, untouched
from archrank.supernet.tasks import inputs_of

__all__ = ["score"]

_CHANNELS_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def score(module: nn.Module, batch: Mapping[str, Tensor]) -> float:
    """L: cross-entropy; rows do not see each other, but for batch normalisation's statistics."""
    if isinstance(module, Elastic):
        return finite("fisher", _of_components(module, batch))
    return finite("fisher", _of_channels(module, batch))


def _of_components(net: Elastic, batch: Mapping[str, Tensor]) -> float:
    rows = len(next(iter(inputs_of(batch).values())))
    on = net.spectrum_of(net.largest)
    gate = on.to(next(net.base.parameters()).device).expand(rows, -1, -1).clone().requires_grad_()
    with untouched(net), torch.enable_grad():
        loss = loss_of(_Gated(net, gate), batch)
        (gradient,) = torch.autograd.grad(loss, [gate])
    return float((rows * gradient.double()).square().mul(on.to(gradient.device)).sum()) / (2 * rows)


class _Gated(nn.Module):
    def __init__(self, net: Elastic, gate: Tensor) -> None:
        super().__init__()
        self.net, self.gate = net, gate

    def forward(self, **inputs: Tensor) -> object:
        return self.net(spectrum=self.gate, **inputs)


def _of_channels(module: nn.Module, batch: Mapping[str, Tensor]) -> float:
    gated = [m for m in module.modules() if isinstance(m, (*_CHANNELS_FIRST, nn.Linear))]
    if not gated:
        raise ProxyError(f"{type(module).__name__} has no convolution and no linear layer: no gate to look at")
    outputs: list[tuple[Tensor, bool]] = []

    def keep(first: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            outputs.append((output, first))

        return hook

    handles = [m.register_forward_hook(keep(isinstance(m, _CHANNELS_FIRST))) for m in gated]
    try:
        with untouched(module), torch.enable_grad():
            loss = loss_of(module, batch)
            gradients = torch.autograd.grad(loss, [output for output, _ in outputs], materialize_grads=True)
    finally:
        for handle in handles:
            handle.remove()
    rows, total = len(batch["labels"]), 0.0
    for (output, first), gradient in zip(outputs, gradients, strict=True):
        product = (output * gradient).detach().double()
        axes = tuple(range(2, product.dim())) if first else tuple(range(1, product.dim() - 1))
        each = product.sum(axes) if axes else product
        total += float((rows * each).square().sum()) / (2 * rows)
    return total
