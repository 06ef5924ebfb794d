"""One training on several devices: each process takes its share of every batch, and gradients are summed.

What a row trains is a function of (seed, step, global sample index), so the batches and the ranks drawn are those of
one process, whatever the number of processes P; the sums over rows are taken in another order:

    g = Σ_p (n_p / n) g_p,      n_p rows of process p, n of the batch, g_p the gradient of its mean loss

Every process then takes the same step. Gradients are exchanged through `accelerate` (gloo on CPUs, NCCL on GPUs).
Dropout masks are drawn for each process's rows alike; a base without dropout trains as in one process to round-off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn, optim

from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.training import Batches

__all__ = ["ReadOnlyCheckpoint", "Share", "ShareError", "share_of_this_process"]


class ShareError(ValueError):
    """A batch that cannot be shared."""


@dataclass(frozen=True)
class Share:
    """Process `rank` of `size`; `total` sums a tensor over all of them."""

    rank: int
    size: int
    total: Callable[[Tensor], Tensor]

    def part(self, rows: int) -> slice:
        """Its rows of a batch, neighbours in the global order."""
        ends = np.cumsum([len(p) for p in np.array_split(np.arange(rows), self.size)])
        return slice(int(ends[self.rank - 1]) if self.rank else 0, int(ends[self.rank]))

    def batches(self, whole: Batches) -> Batches:
        """The process's part of every batch, each row with its global sample index."""

        def part(step: int) -> tuple[Mapping[str, Tensor], Any]:
            batch, index = whole(step)
            mine = self.part(len(index))
            return {key: value[mine] for key, value in batch.items()}, index[mine]

        return part

    @contextmanager
    def summed(self, parameters: Sequence[nn.Parameter], rows: int) -> Iterator[None]:
        """Inside the block every gradient is that of the whole batch of `rows` rows."""
        if rows < self.size:
            raise ShareError(
                f"a batch of {rows} rows has none for some of {self.size} processes: take a larger --batch-size or "
                "fewer --processes"
            )
        mine = self.part(rows)
        weight = (mine.stop - mine.start) / rows
        # a tensor that needs no gradient takes no hook, and the training decides which do
        needed = [p.requires_grad for p in parameters]
        for p in parameters:
            p.requires_grad_(True)
        hooks = [p.register_hook(lambda g: self.total(g * weight)) for p in parameters]  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for p, flag in zip(parameters, needed, strict=True):
                p.requires_grad_(flag)


def share_of_this_process(device: str) -> Share:
    """The share of a process that `torchrun` or `accelerate launch` started; the whole where none did."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device == "cpu")

    def total(x: Tensor) -> Tensor:
        summed: Tensor = accelerator.reduce(x, reduction="sum")
        return summed

    return Share(accelerator.process_index, accelerator.num_processes, total)


@dataclass(frozen=True)
class ReadOnlyCheckpoint(Checkpoint):
    """Of all processes but the first, which writes."""

    def save(self, step: int, parameters: Sequence[Tensor], optimizer: optim.Optimizer, *more: Any) -> None:
        """Nothing: the file is the first process's."""
        return None
