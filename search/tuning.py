"""Candidates of one phase, fine-tuned in one pass where that is faster than one after the other.

Every candidate of a phase sees the same batches on seed k, so they are members of one population. The whole phase is
trained whenever any of its candidates is not in the log: then the members, and so the bits, do not depend on where a
run was interrupted. What is trained stays in a file until the phase is in the log.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from archrank.search.job import Job
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.net import Elastic
from archrank.supernet.population_training import Members
from archrank.supernet.training import Batches, LossFunction, NonFiniteLoss, Tick, TrainPlan

__all__ = ["Lesson", "Tuned", "load_tuned", "tune_together"]


Lesson = tuple[Batches, LossFunction]
"""What a training learns from: (its batches, its loss)."""


@dataclass(frozen=True)
class Tuned:
    """One candidate after its training on one seed: its factors, its share of the seconds, the steps if it diverged."""

    factors: Mapping[str, tuple[Tensor, Tensor]]
    seconds: float
    diverged_after: int | None


def tune_together(
    job: Job, nets: Sequence[Elastic], lesson: Lesson, plan: TrainPlan, file: Path, purpose: str, tick: Tick
) -> list[Tuned]:
    """Every candidate from the weights of its net by `plan`; an interruption is kept in `file`."""
    start = [{n: a.lora_factors() for n, a in net.items()} for net in nets]
    ranks = [net.largest for net in nets]
    members = Members(job.base.model, ranks, start=start)
    batches, loss = lesson
    seconds = members.train(
        lambda step: batches(step)[0],
        plan,
        loss_function=loss,
        checkpoint=Checkpoint(file, purpose, 60 * job.config.save_minutes),
        tick=tick,
    )
    lost = set(members.diverged())
    return [
        Tuned(factors, seconds / len(ranks), plan.steps if p in lost else None)
        for p, factors in enumerate(members.factors())
    ]


def load_tuned(net: Elastic, tuned: Tuned) -> None:
    """Puts trained factors into a slice of the supernet; NonFiniteLoss where the training diverged."""
    if tuned.diverged_after is not None:
        raise NonFiniteLoss(tuned.diverged_after, math.nan)
    for name, adapter in net.items():
        assert isinstance(adapter, LoRA)
        A, B = tuned.factors[name]
        adapter.A.data.copy_(A)
        adapter.B.data.copy_(B / adapter.scale)
