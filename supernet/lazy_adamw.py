"""AdamW that steps only the components that took part: a row of A and a column of B with their own moments and count.

For component j: n_j ← n_j + 1, m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g²; p ← p (1 − η λ) − η m̂ / (√v̂ + ε),
with the bias corrections of n_j (Kingma and Ba 2015; Loshchilov and Hutter 2019). A component that was not touched
keeps its bits: under plain AdamW a gradient of zero still moves it by momentum and decay.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.net import Elastic

__all__ = ["RowLazyAdamW"]


class RowLazyAdamW(torch.optim.Optimizer):
    """Over the LoRA factors of a net; `touch` before each step says which components are stepped."""

    def __init__(
        self, net: Elastic, lr: float, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        self._axes: dict[int, tuple[int, int]] = {}
        parameters: list[Tensor] = []
        for place, (name, adapter) in enumerate(net.items()):
            if not isinstance(adapter, LoRA):
                raise ValueError(f"{name}: a frozen policy trains components of lora, not of {type(adapter).__name__}")
            for p, axis in ((adapter.A, 0), (adapter.B, 1)):
                self._axes[id(p)] = (place, axis)
                parameters.append(p)
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._touched: Tensor | None = None

    def touch(self, mask: Tensor | None) -> None:
        """The gradient mask `(samples, modules, R)` of the step; None: all components."""
        self._touched = None if mask is None else (mask != 0).any(0).cpu()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of the touched components."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group)

    def _step(self, p: Tensor, group: dict[str, float | tuple[float, float]]) -> None:
        place, axis = self._axes[id(p)]
        count = p.shape[axis]
        rows = torch.arange(count) if self._touched is None else self._touched[place, :count].nonzero().flatten()
        if not len(rows):
            return
        rows = rows.to(p.device)
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(count, device=p.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        lr, eps, decay = group["lr"], group["eps"], group["weight_decay"]
        b1, b2 = group["betas"]  # type: ignore[misc]
        assert p.grad is not None
        value, gradient = p.index_select(axis, rows), p.grad.index_select(axis, rows)
        m, v = (state[key].index_select(axis, rows) for key in ("exp_avg", "exp_avg_sq"))
        m.lerp_(gradient, 1 - b1)
        v.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        n = state["step"].index_select(0, rows) + 1
        shape = (-1, 1) if axis == 0 else (1, -1)
        first, second = ((1 - b**n).view(shape) for b in (b1, b2))
        value.mul_(1 - lr * decay).sub_(lr * (m / first) / ((v / second).sqrt() + eps))  # type: ignore[operator]
        p.index_copy_(axis, rows, value)
        state["exp_avg"].index_copy_(axis, rows, m)
        state["exp_avg_sq"].index_copy_(axis, rows, v)
        state["step"].index_copy_(0, rows, n)
