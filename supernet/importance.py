"""Which heads and FFN channels of an encoder matter, from data; the most important come first.

With a factor ξ = 1 on each head's output (or each FFN channel), for a row with loss L_row

    I = mean over rows of |∂L_row / ∂ξ| = mean over rows of |Σ_t aᵀ ∂L_row / ∂a|

For heads this is Michel et al., Are Sixteen Heads Really Better than One?, NeurIPS 2019, eq. 2; for channels the
first-order Taylor criterion of Molchanov et al., ICLR 2017. a: what enters `o` (a head's slice of it) and `down`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from archrank.supernet.encoders import LayerModules

__all__ = ["ImportanceError", "LayerOrder", "Order", "load_order", "measure", "order_tensors"]

WANTED = "give data=[batch, …], each a dict of the model's inputs with `labels`"


class ImportanceError(ValueError):
    """Importances asked for without data, or from data that give none."""


@dataclass(frozen=True, slots=True)
class LayerOrder:
    """Heads and FFN channels of one layer, the most important first."""

    heads: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """What `measure` found: the order in each layer, the importances themselves, and the number of tokens per row."""

    layers: Mapping[str, LayerOrder]
    scores: Mapping[str, tuple[Tensor, Tensor]]
    length: int


def measure(base: nn.Module, layers: Mapping[str, LayerModules], data: Sequence[Mapping[str, Tensor]]) -> Order:
    """Orders by importance over all rows of `data`; ties keep the base's order.

    The base is evaluated in eval mode and left as it was. Raises ImportanceError for no batches, a batch without labels
    or rows, or a loss that is not finite.
    """
    if not data:
        raise ImportanceError(f"data holds no batch, and importances are measured on data: {WANTED}")
    totals = {name: [torch.zeros(m.sizes.heads), torch.zeros(m.sizes.ffn)] for name, m in layers.items()}
    device, training, rows, length = next(base.parameters()).device, base.training, 0, 0
    base.eval()
    try:
        for batch in data:
            if not isinstance(batch, Mapping):
                raise ImportanceError(
                    f"a batch for importances is {type(batch).__name__}, no dict of tensors: {WANTED}"
                )
            if "labels" not in batch or not len(batch["labels"]):
                raise ImportanceError(
                    f"a batch for importances has {', '.join(sorted(batch)) or 'nothing'}, without labels: {WANTED}"
                )
            many = len(batch["labels"])
            with torch.enable_grad(), _factors(base, layers) as (factors, lengths):
                loss = getattr(base(**{k: v.to(device) for k, v in batch.items()}), "loss", None)
            if loss is None:
                raise ImportanceError(
                    f"{type(base).__name__} answers labels with no loss, and importances are its gradients: load the "
                    "base with the head of its task (AutoModelForSequenceClassification, …ForImageClassification)"
                )
            if not bool(torch.isfinite(loss)):
                raise ImportanceError(f"the base's loss on a batch for importances is {loss}: {WANTED}")
            gradients = torch.autograd.grad(loss, [f for pair in factors.values() for f in pair])
            for i, name in enumerate(factors):
                for total, gradient in zip(totals[name], gradients[2 * i : 2 * i + 2], strict=True):
                    total.add_(gradient.abs().sum(0).cpu() * many)  # the loss is a mean over rows
            rows, length = rows + many, max(length, *lengths)
    finally:
        base.train(training)
    return _ordered({name: (heads / rows, channels / rows) for name, (heads, channels) in totals.items()}, length)


def _ordered(scores: Mapping[str, tuple[Tensor, Tensor]], length: int) -> Order:
    return Order({n: LayerOrder(_descending(h), _descending(c)) for n, (h, c) in scores.items()}, scores, length)


def order_tensors(order: Order) -> dict[str, Tensor]:
    """{LAYER.heads, LAYER.channels: importances}, for a file."""
    return {
        f"{name}.{what}": tensor
        for name, pair in order.scores.items()
        for what, tensor in zip(("heads", "channels"), pair, strict=True)
    }


def load_order(tensors: Mapping[str, Tensor], meta: Mapping[str, object]) -> Order:
    """The inverse of `order_tensors`, with `length` in the meta data."""
    names = [key[: -len(".heads")] for key in tensors if key.endswith(".heads")]
    return _ordered({n: (tensors[f"{n}.heads"], tensors[f"{n}.channels"]) for n in names}, int(str(meta["length"])))


def _descending(scores: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.argsort(scores, descending=True, stable=True))


@contextmanager
def _factors(
    base: nn.Module, layers: Mapping[str, LayerModules]
) -> Iterator[tuple[dict[str, tuple[Tensor, Tensor]], list[int]]]:
    """Ones `(rows, heads)` and `(rows, channels)` on what enters `o` and `down`, filled during one forward; the base's
    weights need no gradient meanwhile.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    lengths: list[int] = []

    def hook(name: str, parts: int, width: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def scaled(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = args[0]
            factor = torch.ones(len(x), parts, device=x.device, dtype=x.dtype, requires_grad=True)
            found[name].append(factor)
            lengths.append(x.shape[-2])
            wide = factor.repeat_interleave(width, dim=1)
            return (x * wide.view(len(x), *[1] * (x.dim() - 2), -1), *args[1:])

        return scaled

    flags = [(p, p.requires_grad) for p in base.parameters()]
    handles = []
    try:
        for p, _ in flags:
            p.requires_grad_(False)
        for name, modules in layers.items():
            sizes = modules.sizes
            o, down = (base.get_submodule(modules.names[role]) for role in ("o", "down"))
            handles.append(o.register_forward_pre_hook(hook(name, sizes.heads, sizes.head)))
            handles.append(down.register_forward_pre_hook(hook(name, sizes.ffn, 1)))
        yield pairs, lengths
        for name, factors in found.items():
            if len(factors) != 2:
                raise ImportanceError(f"{name}: its o and down ran {len(factors)} times in one forward, not twice")
            pairs[name] = (factors[0], factors[1])
    finally:
        for handle in handles:
            handle.remove()
        for p, flag in flags:
            p.requires_grad_(flag)
