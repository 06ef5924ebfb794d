"""How a forward of the bare base sees the adapters of the moment, without hooks that are hung and taken off each time.

Inside the block every bound module's `forward` reads a slot: None (the module as it is), a spectrum (the module and
its adapter's branch) or a weight (the module with that weight in place of its own). Setting a slot costs nothing, so
one forward can run each layer under another candidate. Outside the block the base is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from archrank.kernels import gated_lora, grouped_choice_linear
from archrank.kernels.backend import LARGEST_RANK, use_triton
from archrank.supernet.adapters.base import AdapterFamily
from archrank.supernet.adapters.lora import LoRA

__all__ = ["Choices", "Slot", "Stack", "Weight", "by_kernel", "mergeable", "merged_weight", "stubbed", "wired"]


@dataclass(frozen=True, slots=True)
class Weight:
    """A merged weight, `(out, in)` for a linear layer and `(in, out)` for transformers' Conv1D."""

    value: Tensor


@dataclass(frozen=True, slots=True)
class Stack:
    """Spectra `(P, rank)` of P candidates whose rows lie below each other, equally many of each."""

    gates: Tensor


@dataclass(frozen=True, slots=True)
class Choices:
    """Merged weights `(C, out, in)` and which one each of P stacked candidates takes, `(P,)`."""

    weights: Tensor
    choice: Tensor


Slot = Tensor | Weight | Stack | Choices | None
"""A spectrum `(rows | 1, rank)`, a merged weight, those of stacked candidates, or nothing."""


@contextmanager
def wired(targets: Sequence[nn.Module], adapters: Sequence[AdapterFamily]) -> Iterator[list[Slot]]:
    """The slots, one for each target, while the block lasts; all None at first."""
    slots: list[Slot] = [None] * len(targets)
    with stubbed([(t, _forward(t, a, slots, i)) for i, (t, a) in enumerate(zip(targets, adapters, strict=True))]):
        yield slots


@contextmanager
def stubbed(pairs: Sequence[tuple[nn.Module, Callable[..., object]]]) -> Iterator[None]:
    """Each module's `forward` is the function beside it while the block lasts."""
    before: list[tuple[nn.Module, object]] = []
    try:
        for module, function in pairs:
            before.append((module, module.__dict__.get("forward")))
            module.forward = function
        yield
    finally:
        for module, own in reversed(before):
            if own is None:
                del module.forward
            else:  # another library (accelerate) had put its own there
                module.forward = own  # type: ignore[assignment]


def mergeable(module: nn.Module) -> bool:
    """Whether a merged weight may stand for the module: a plain fp32 linear layer.

    In bf16 W + ΔW loses small deltas (half of the effect of one with ‖ΔW‖ = 0.003 ‖W‖), and a quantised weight is not
    a matrix at all.
    """
    weight = getattr(module, "weight", None)
    return _plain(module) and isinstance(weight, Tensor) and weight.dtype == torch.float32


def merged_weight(module: nn.Module, adapter: AdapterFamily, rank: int) -> Weight:
    """W + ΔW of the adapter's first `rank` components, in fp32, in the module's own layout."""
    own = module.weight
    assert isinstance(own, Tensor)
    if rank == 0:
        return Weight(own.detach())
    delta = adapter.sliced(rank).delta_weight().detach().to(own.device)
    return Weight(own.detach() + (delta if isinstance(module, nn.Linear) else delta.T))


def _plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def by_kernel(module: nn.Module, adapter: AdapterFamily, x: Tensor) -> bool:
    """Whether stacked candidates run `gated_lora`'s own kernel: a LoRA beside a plain linear layer of x's dtype, where
    the backend picks Triton (half precision on a GPU; the interpreter). Elsewhere the module and its branch run.
    """
    if type(module) is not nn.Linear or not isinstance(adapter, LoRA) or adapter.rank > LARGEST_RANK:
        return False
    return module.weight.dtype == x.dtype and use_triton("gated_lora", x, adapter.A)


def _gated(module: nn.Module, adapter: AdapterFamily, x: Tensor, slot: Stack) -> Tensor:
    """The factors are rounded to x's dtype here (by up to 2⁻⁹ in bf16): tensor cores take no fp32."""
    assert isinstance(module, nn.Linear)
    assert isinstance(adapter, LoRA)
    flat, candidates = x.reshape(-1, x.shape[-1]), len(slot.gates)
    row = torch.arange(candidates, device=x.device).repeat_interleave(len(flat) // candidates)
    B = adapter.B * adapter.scale
    y = gated_lora(flat, module.weight, adapter.A.to(x.dtype), B.to(x.dtype), slot.gates, row)
    return (y if module.bias is None else y.add_(module.bias)).view(*x.shape[:-1], -1)


def _forward(module: nn.Module, adapter: AdapterFamily, slots: list[Slot], place: int) -> Callable[[Tensor], Tensor]:
    own = module.forward
    bias = getattr(module, "bias", None)
    transposed = not isinstance(module, nn.Linear)
    # what these two give is always new memory; another class may hand out what it keeps
    fresh = _plain(module)

    def forward(x: Tensor) -> Tensor:
        slot = slots[place]
        if isinstance(slot, Weight):
            if transposed:
                flat = x.reshape(-1, x.shape[-1])
                return (flat @ slot.value if bias is None else torch.addmm(bias, flat, slot.value)).view(
                    *x.shape[:-1], -1
                )
            return linear(x, slot.value, bias)
        if isinstance(slot, Choices):
            y = grouped_choice_linear(x.reshape(len(slot.choice), -1, x.shape[-1]), slot.weights, slot.choice)
            return (y if bias is None else y.add_(bias)).view(*x.shape[:-1], -1)
        if isinstance(slot, Stack):
            if by_kernel(module, adapter, x):
                return _gated(module, adapter, x, slot)
            slot = slot.gates.repeat_interleave(len(x) // len(slot.gates), 0)
        output: Tensor = own(x)
        if slot is None:
            return output
        return adapter.add_to(output, x, slot, in_place=fresh)

    return forward
