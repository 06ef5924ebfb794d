"""Training over several processes: each takes its share of a step's rows, the gradients are summed.

What a row trains is drawn from (run seed, step, global sample index), never from a generator of a process, so the ranks
of a step, and up to the order of additions its gradient, are the same for any number of processes. Nothing here starts
processes: where torch.distributed was not initialised (torchrun does it), there is one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed

__all__ = ["my_rows", "sum_gradients", "sum_over_processes"]


def _active() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def my_rows(rows: int) -> tuple[int, int]:
    """[low, high) of this process in a batch of `rows`: equal shares, the first ones a row longer where it must be."""
    if not _active():
        return 0, rows
    world, rank = distributed.get_world_size(), distributed.get_rank()
    share, rest = divmod(rows, world)
    low = rank * share + min(rank, rest)
    return low, low + share + (rank < rest)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Σ over processes of each gradient, in one message; a missing one counts as zero."""
    if not _active():
        return
    found = list(parameters)
    for p in found:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in found if p.grad is not None])
    distributed.all_reduce(flat)
    at = 0
    for p in found:
        assert p.grad is not None
        p.grad.copy_(flat[at : at + p.numel()].view_as(p))
        at += p.numel()


def sum_over_processes(value: Tensor) -> Tensor:
    """Σ of a scalar."""
    if _active():
        distributed.all_reduce(value)
    return value
