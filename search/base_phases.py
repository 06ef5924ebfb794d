"""What runs over a pretrained base have around their phases: a new head trained first, checkpoints, one training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from archrank.search.base_job import BaseJob, new_parameters
from archrank.search.errors import RunError
from archrank.search.phases import Shell
from archrank.supernet.base import Base
from archrank.supernet.checkpoint import Checkpoint, load_tensors, save_tensors
from archrank.supernet.net import Elastic
from archrank.supernet.training import NonFiniteLoss, Tick, TrainPlan, train

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

__all__ = ["HEAD_FILE", "BasePhases", "Training", "load_head"]

HEAD_STEPS = 300
HEAD_FILE = "head.safetensors"

Training = Callable[[TrainPlan, Checkpoint, Tick], float]
"""Trains something by the plan and returns the seconds spent, as `supernet.training.train` does."""


def load_head(path: Path, base: Base) -> None:
    """The trained parameters of a new head, from a run's folder into the base."""
    tensors, _ = load_tensors(path / HEAD_FILE)
    for i, p in enumerate(new_parameters(base)):
        p.data.copy_(tensors[f"p{i}"])


class BasePhases(Shell):
    """A run over a base."""

    def __init__(self, job: BaseJob, path: Path, header: dict[str, object], cluster: Cluster | None = None) -> None:
        super().__init__(job, path, header, cluster)
        self._over = job

    def _head(self) -> None:
        """What the checkpoint lacks is trained once on the bare base, and frozen for every method and candidate."""
        job = self._over
        parameters = new_parameters(job.base)
        if not parameters:
            return
        file, seed = self.path / HEAD_FILE, job.config.seed
        if not file.exists():

            def training(plan: TrainPlan, checkpoint: Checkpoint, tick: Tick) -> float:
                bare = Elastic(job.base.model, {})
                return train(
                    bare, job.batches(seed), job.loss, plan, parameters=parameters, checkpoint=checkpoint, tick=tick
                )

            self._trained("head", min(HEAD_STEPS, job.train_steps), seed, training)
            save_tensors(file, {f"p{i}": p for i, p in enumerate(parameters)}, {})
        load_head(self.path, job.base)

    def _checkpoint(self, purpose: str) -> Checkpoint:
        return Checkpoint(self.path / "checkpoint.safetensors", purpose, 60 * self._over.config.save_minutes)

    def _trained(self, purpose: str, steps: int, seed: int, training: Training, *, quiet: bool = False) -> float:
        """Runs a training from its checkpoint on; the seconds spent. NonFiniteLoss where it is quiet (a candidate's),
        RunError otherwise.
        """
        config = self._over.config
        assert config.lr is not None
        if not quiet:
            self.progress.phase(purpose, total=steps, unit="steps")
        plan = TrainPlan(steps, config.lr, seed=seed, accumulate=config.accumulate)
        try:
            return training(plan, self._checkpoint(purpose), self._tick(quiet))
        except NonFiniteLoss as error:
            if quiet:
                raise
            raise RunError(f"{purpose}: {error}") from None
