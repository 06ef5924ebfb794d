"""Trainings from nothing of an architecture search, each a function of (job, sentence, seed) alone: so they may run
anywhere, in any order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from archrank.search.architecture_job import ArchitectureJob
from archrank.search.halving import rung_steps
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.network_training import fit, score
from archrank.supernet.networks import build
from archrank.supernet.training import NonFiniteLoss, TrainPlan

__all__ = [
    "Finished",
    "TrialTimeout",
    "final_seed",
    "finished",
    "fit_network",
    "rungs_of",
    "search_seed",
    "trained",
]

WEIGHT_DECAY = 0.01
Tick = Callable[[int, float], None]


class TrialTimeout(RuntimeError):
    """A training that takes longer than --trial-timeout."""


def rungs_of(job: ArchitectureJob) -> list[int]:
    """Training steps of each rung: one where nothing is halved."""
    config = job.config
    halving = config.evaluate == "train" and config.reduction > 1
    return rung_steps(job.train_steps, config.reduction) if halving else [job.train_steps]


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
    """Trains in place on the run's device with the run's settings; TrialTimeout after --trial-timeout seconds."""
    config = job.config
    assert config.lr is not None
    assert config.batch_size is not None
    network.to(config.device)
    plan = TrainPlan(steps, config.lr, seed=seed, weight_decay=WEIGHT_DECAY)
    limit, began = config.trial_timeout, time.monotonic()

    def timed(done: int, loss: float) -> None:
        if tick:
            tick(done, loss)
        if limit is not None and time.monotonic() - began > limit:
            raise TrialTimeout(f"still training after {limit:g} s (--trial-timeout), at step {done} of {steps}")

    fit(network, job.data, plan, config.batch_size, timed, checkpoint)


def trained(
    job: ArchitectureJob,
    text: str,
    number: int,
    steps: int,
    tick: Tick | None = None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, float]:
    """Values of trial `number` after so many steps from nothing. NonFiniteLoss or TrialTimeout."""
    seed = search_seed(job, number)
    network = build(job.architecture(job.space.parse(text)), seed)
    fit_network(job, network, steps, seed, tick, checkpoint)
    return score(network, job.data, "validation", job.config.eval_rows)


@dataclass(frozen=True)
class Finished:
    """One training of a finalist: its values, and of the first one those on the test rows and its weights; or why it
    has none.
    """

    values: dict[str, float]
    test: dict[str, float]
    tensors: dict[str, Tensor]
    seconds: float
    failed: str | None = None


def finished(job: ArchitectureJob, text: str, k: int, tick: Tick | None = None) -> Finished:
    """The k-th training of a finalist."""
    seed, began = final_seed(job, k), time.monotonic()
    network = build(job.architecture(job.space.parse(text)), seed)
    try:
        fit_network(job, network, job.train_steps, seed, tick)
    except (NonFiniteLoss, TrialTimeout) as error:
        return Finished({}, {}, {}, time.monotonic() - began, str(error))
    values, test = score(network, job.data, "validation"), dict[str, float]()
    tensors: dict[str, Tensor] = {}
    if k == 0:
        tensors = {name: t.detach().cpu() for name, t in network.state_dict().items()}
        test = score(network, job.data, "test") if job.data.size("test") else {}
    return Finished(values, test, tensors, time.monotonic() - began)
