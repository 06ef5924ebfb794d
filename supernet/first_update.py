"""The first update of full fine-tuning, module by module: what LoRA-SB starts its bases and cores from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from archrank.supernet.adapters.lora_xs import LoRAXS
from archrank.supernet.net import ConfigurationError, Elastic
from archrank.supernet.tasks import inputs_of
from archrank.supernet.training import LossFunction

__all__ = ["start_from_first_update", "weight_gradients"]


def weight_gradients(
    net: Elastic, batches: Sequence[Mapping[str, Tensor]], loss_function: LossFunction
) -> dict[str, Tensor]:
    """{module: mean over batches of ∂L/∂W (out, in)} of the bare base: Σ dy xᵀ, so W itself needs no gradient and may
    be quantised.
    """
    sums = {name: torch.zeros(shape) for name, shape in net.shapes.items()}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def see(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = args[0].detach().flatten(0, -2).float()
            watched = output if output.requires_grad else output.detach().requires_grad_()

            def add(gradient: Tensor) -> None:
                sums[name] += (gradient.flatten(0, -2).float().T @ x).cpu()

            watched.register_hook(add)  # type: ignore[no-untyped-call]
            return watched

        return see

    handles = [t.register_forward_hook(watch(n)) for n, t in zip(net.names, net.targets, strict=True)]
    try:
        for batch in batches:
            answer = net.base(**inputs_of(batch))
            loss_function(answer.logits, batch).backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / len(batches) for name, total in sums.items()}


def start_from_first_update(
    net: Elastic, batches: Sequence[Mapping[str, Tensor]], loss_function: LossFunction, lr: float
) -> None:
    """Every core and its bases from −lr · sign(mean gradient); ConfigurationError for a net of another family."""
    gradients = weight_gradients(net, batches, loss_function)
    for name, adapter in net.items():
        if not isinstance(adapter, LoRAXS):
            raise ConfigurationError(f"{name}: carries {type(adapter).__name__}; the first update starts lora_xs alone")
        adapter.start_from(-lr * gradients[name].sign())
