"""What a cut network learns from the whole one: its logits, and what its layers hand on.

    L = τ L_task(z_s, y) + D(z_s, z_t) + h mean over kept layers l of ‖m ∘ (x_s,l − x_t,l)‖² / ‖m ∘ x_t,l‖²

D: T² KL(softmax(z_t / T) ‖ softmax(z_s / T)) (Hinton, Vinyals and Dean 2015) or the mean squared difference of the
logits; x_l `(rows, tokens, hidden)`: a layer's output, compared with that of the same layer of the whole (Hou et al.,
DynaBERT, NeurIPS 2020), m the mask of tokens that are no padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Answer", "Distillation", "DistillationError", "watched"]


class DistillationError(ValueError):
    """A distillation that is none."""


@dataclass(slots=True)
class Answer:
    """Logits `(rows, classes)`, and what each layer that ran handed on, by its name in the whole."""

    logits: Tensor
    hidden: dict[str, Tensor] = field(default_factory=dict)

    def detached(self) -> Answer:
        """The same without gradients: a teacher's."""
        return Answer(self.logits.detach(), {name: x.detach() for name, x in self.hidden.items()})


@dataclass(frozen=True, slots=True)
class Distillation:
    """logits: D is `kl` or `mse`; temperature: T; hidden: h; task: τ."""

    logits: Literal["kl", "mse"] = "kl"
    temperature: float = 1.0
    hidden: float = 1.0
    task: float = 0.0

    def __post_init__(self) -> None:
        if self.logits not in ("kl", "mse"):
            raise DistillationError(f"Distillation(logits={self.logits!r}): must be kl or mse")
        if not self.temperature > 0 or self.hidden < 0 or self.task < 0:
            raise DistillationError(
                f"Distillation(temperature={self.temperature}, hidden={self.hidden}, task={self.task}): a temperature "
                "is above 0, and the weights are at least 0"
            )

    def loss(self, student: Answer, teacher: Answer, task_loss: Tensor, mask: Tensor | None = None) -> Tensor:
        """L; task_loss: the student's own; mask `(rows, tokens)`: 1 where a token is no padding."""
        z_s, z_t = student.logits.float(), teacher.logits.float()
        if self.logits == "kl":
            T = self.temperature
            log_s, log_t = F.log_softmax(z_s / T, -1), F.log_softmax(z_t / T, -1)
            total = F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * T * T
        else:
            total = F.mse_loss(z_s, z_t)
        if self.task:
            total = total + self.task * task_loss
        if self.hidden and student.hidden:
            terms = [_relative(x, teacher.hidden[name], mask) for name, x in student.hidden.items()]
            total = total + self.hidden * torch.stack(terms).mean()
        return total


def _relative(x: Tensor, whole: Tensor, mask: Tensor | None) -> Tensor:
    x, whole = x.float(), whole.float()
    if mask is not None and mask.shape == x.shape[:2]:
        m = mask.to(x.dtype)[..., None]
        x, whole = x * m, whole * m
    return (x - whole).square().sum() / whole.square().sum()


@contextmanager
def watched(blocks: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What each block hands on in the last forward inside, by name; empty it between two forwards."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [block.register_forward_hook(keep(name)) for name, block in blocks.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
