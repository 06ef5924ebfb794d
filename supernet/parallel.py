"""One training by several processes: who this process is, and who writes.

The training itself is `train`'s: each process takes its rows of every batch and the gradients are summed
(distributed.py). `accelerate` starts the group, gloo on CPUs, NCCL on GPUs, from what `torchrun` or `accelerate launch`
left in the environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, optim

from archrank.supernet.checkpoint import Checkpoint

__all__ = ["ReadOnlyCheckpoint", "join_processes", "leave_processes"]


def join_processes(device: str) -> tuple[int, int]:
    """(number of this process, processes), the group being started; (0, 1) where nothing launched several."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device == "cpu")
    return accelerator.process_index, accelerator.num_processes


def leave_processes() -> None:
    """Ends the group once every process is here: one that ends with its threads running may abort."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class ReadOnlyCheckpoint(Checkpoint):
    """Of all processes but the first, which writes."""

    def save(self, step: int, parameters: Sequence[Tensor], optimizer: optim.Optimizer, *more: Any) -> None:
        """Nothing: the file is the first process's."""
        return None
