"""Trainings from nothing of an architecture search, each a function of (job, sentence, seed) alone: so they may run
anywhere, in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from archrank.search.architecture_job import ArchitectureJob
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.network_training import fit, score
from archrank.supernet.networks import build
from archrank.supernet.training import NonFiniteLoss, TrainPlan

__all__ = ["Finished", "final_seed", "finished", "fit_network", "search_seed", "trained"]

WEIGHT_DECAY = 0.01
Tick = Callable[[int, float], None]


def search_seed(job: ArchitectureJob, number: int) -> int:
    """Of the training of trial `number` in the search."""
    return job.config.seed + 10_000 + number


def final_seed(job: ArchitectureJob, k: int) -> int:
    """Of a finalist's k-th training."""
    return job.config.seed + 1000 * (1 + k) + 500


def fit_network(
    job: ArchitectureJob,
    network: nn.Module,
    steps: int,
    seed: int,
    tick: Tick | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Trains in place on the run's device with the run's settings."""
    config = job.config
    assert config.lr is not None
    assert config.batch_size is not None
    network.to(config.device)
    plan = TrainPlan(steps, config.lr, seed=seed, weight_decay=WEIGHT_DECAY)
    fit(network, job.data, plan, config.batch_size, tick, checkpoint)


def trained(
    job: ArchitectureJob, text: str, number: int, tick: Tick | None = None, checkpoint: Checkpoint | None = None
) -> dict[str, float]:
    """Values of trial `number` after a full training from nothing."""
    seed = search_seed(job, number)
    network = build(job.architecture(job.space.parse(text)), seed)
    fit_network(job, network, job.train_steps, seed, tick, checkpoint)
    return score(network, job.data, "validation", job.config.eval_rows)


@dataclass(frozen=True)
class Finished:
    """One training of a finalist: its values, and of the first one those on the test rows and its weights."""

    values: dict[str, float]
    test: dict[str, float]
    tensors: dict[str, Tensor]
    diverged: str | None = None


def finished(job: ArchitectureJob, text: str, k: int, tick: Tick | None = None) -> Finished:
    """The k-th training of a finalist."""
    seed = final_seed(job, k)
    network = build(job.architecture(job.space.parse(text)), seed)
    try:
        fit_network(job, network, job.train_steps, seed, tick)
    except NonFiniteLoss as error:
        return Finished({}, {}, {}, str(error))
    values = score(network, job.data, "validation")
    if k:
        return Finished(values, {}, {})
    test = score(network, job.data, "test") if job.data.size("test") else {}
    return Finished(values, test, {name: t.detach().cpu() for name, t in network.state_dict().items()})
