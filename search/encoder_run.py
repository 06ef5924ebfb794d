"""The phases of a search over an encoder's layers: head, importances, whole, supernet, search, finalists.

The supernet is the base itself, trained whole and then by sandwich steps; candidates are scored as slices of it, and
the search begins with what needs none: all layers cut alike, and the base without its upper layers. Finalists are cut
out of it and fine-tuned on labels and on the whole's answers, and tested once.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from archrank.grammar import Derivation
from archrank.search.base_job import Batches
from archrank.search.base_phases import BasePhases, Training
from archrank.search.candidates import weights_of
from archrank.search.encoder_job import SANDWICH_SHARE, EncoderJob, tuned_parameters
from archrank.search.selection import by_cost
from archrank.search.study import Study
from archrank.search.trial import Trial
from archrank.supernet.checkpoint import Checkpoint, load_tensors, save_tensors
from archrank.supernet.distillation import Distillation
from archrank.supernet.importance import load_order, measure, order_tensors
from archrank.supernet.sandwich import adapter_parameters, fine_tune, train_sandwich, train_whole
from archrank.supernet.teaching import answers, taught_loss
from archrank.supernet.training import LossFunction, NonFiniteLoss, Tick, TrainPlan

__all__ = ["ANSWERS", "IMPORTANCE_FILE", "SUPERNET_FILE", "EncoderPhases", "Finalist", "load_named"]

IMPORTANCE_FILE, SUPERNET_FILE, WHOLE_FILE = "importance.safetensors", "supernet.safetensors", "whole.safetensors"
ANSWERS = Distillation(temperature=2.0, hidden=0.0, task=1.0)
"""What a finalist learns of the whole: its softened answers, beside the labels, and not what its layers hand on."""
WHOLE_SEED, FINAL_SEED = 700, 1500  # above the run's: batches of other orders than the supernet's


def load_named(module: nn.Module, path: Path) -> Mapping[str, object]:
    """The saved parameters into those of the same names; what else the file says."""
    own, (tensors, said) = dict(module.named_parameters()), load_tensors(path)
    for name, tensor in tensors.items():
        own[name].data.copy_(tensor)
    return said


@dataclass(frozen=True)
class Finalist:
    """A candidate cut out to be trained by itself.

    training: trains the `parameters` of `module` in place, as `BasePhases._trained` wants it; told: values on a split,
    and what else stands in the trial's record.
    """

    module: nn.Module
    parameters: list[nn.Parameter]
    training: Training
    told: Callable[[str], tuple[dict[str, float], dict[str, object]]]


class EncoderPhases(BasePhases):
    """One pass over the phases."""

    def __init__(self, job: EncoderJob, path: Path) -> None:
        super().__init__(job, path, job.header())
        self.job = job
        self.study = Study(
            job.space, job.objectives, job.config.strategy, job.config.seed, constraints=job.constraints, log=self.log
        )

    def phases(self) -> None:
        """Each does what the folder does not hold yet."""
        self._head()
        self._order()
        self._supernet()
        self._search_all(self._evaluate, first=self.study.space.equal_layers)
        self._worst()
        chosen = by_cost(self._inherited(), self.job.objectives, self.job.config.finalists)
        self._finish_all(chosen, self._finish)

    def _order(self) -> None:
        """Heads and channels by their importance for the base with its head, on training rows."""
        job, file = self.job, self.path / IMPORTANCE_FILE
        if not file.exists():
            self.progress.phase("importances")
            order = measure(job.base.model, job.net.layers, job.importance_batches())
            save_tensors(file, order_tensors(order), {"length": order.length})
        job.net.order = load_order(*load_tensors(file))

    def _supernet(self) -> None:
        """The whole first, then the sandwich."""
        job = self.job
        if not self._shared():
            steps = max(1, round(SANDWICH_SHARE * job.train_steps))
            self._train_shared(train_sandwich, SUPERNET_FILE, "supernet", steps, job.config.seed, 1)
        job.net.eval()

    def _shared(self) -> int:
        """The weights that all share, as far as the folder has them trained, at least those of the whole; how many
        parts of the supernet's training that is.
        """
        job, file, whole = self.job, self.path / SUPERNET_FILE, self.path / WHOLE_FILE
        if not whole.exists():
            self._train_shared(train_whole, WHOLE_FILE, "whole", job.train_steps, job.config.seed + WHOLE_SEED, 0)
        return int(str(load_named(job.net, file if file.exists() else whole)["parts"]))

    def _train_shared(
        self, how: Callable[..., float], file: str, purpose: str, steps: int, seed: int, parts: int
    ) -> None:
        """Trains the shared weights by `train_whole` or `train_sandwich`, and keeps them."""
        job = self.job

        def training(plan: TrainPlan, checkpoint: Checkpoint, tick: Tick) -> float:
            return how(
                job.net, job.batches(seed), job.loss, plan, parameters=tuned_parameters(job),
                checkpoint=checkpoint, tick=tick,
            )  # fmt: skip

        self._keep(file, purpose, self._trained(purpose, steps, seed, training), parts)

    def _keep(self, file: str, phase: str, seconds: float, parts: int) -> None:
        """The trained weights into the folder, and what took that long into the log."""
        job, chosen = self.job, tuned_parameters(self.job)
        kept = {id(p) for p in (job.net.adapters.parameters() if chosen is None else chosen)}
        tensors = {name: p for name, p in job.net.named_parameters() if id(p) in kept}
        save_tensors(self.path / file, tensors, {"r_max": job.net.r_max, "parts": parts})
        self.log.event({"event": "phase", "name": phase, "seconds": round(seconds, 3)})
        self._checkpoint("").clear()

    @cached_property
    def _lesson(self) -> tuple[Batches, LossFunction]:
        """What every finalist learns from, batch for batch: labels, and the answers of the whole as it was before it
        was cut, as afterwards it answers worse (docs/supernet.md).
        """
        job, whole = self.job, copy.deepcopy(self.job.net)
        load_named(whole, self.path / WHOLE_FILE)
        batches = job.batches(job.config.seed + FINAL_SEED)
        told = answers(whole, job.data, batches.met(job.train_steps))
        return replace(batches, answers=told), taught_loss(job.loss, ANSWERS)

    def _evaluate(self, d: Derivation) -> None:
        """One candidate: its price, and where that meets the constraints its inherited values."""
        began, job = time.monotonic(), self.job
        choices = job.choices(d)
        cost = job.pricer.price(choices)
        reason, _ = self._refused(cost)
        if reason:
            self.study.tell(d, cost, seconds=time.monotonic() - began, infeasible=reason)
            return
        self.study.tell(d, {**job.score(choices), **cost}, seconds=time.monotonic() - began)

    def _cost(self, d: Derivation) -> dict[str, float]:
        """What a candidate costs."""
        return self.job.pricer.price(self.job.choices(d))

    def _finalist(self, d: Derivation) -> Finalist:
        """A candidate cut out, with the weights that it inherits."""
        job = self.job
        sub = job.net.extract(job.choices(d))
        module = sub.unmerged()
        chosen = list(module.parameters()) if job.config.tune == "all" else adapter_parameters(module)

        def training(plan: TrainPlan, checkpoint: Checkpoint, tick: Tick) -> float:
            batches, loss = self._lesson
            return fine_tune(sub, module, batches, loss, plan, parameters=chosen, checkpoint=checkpoint, tick=tick)

        return Finalist(module, chosen, training, lambda split: (job.measured(module, job.rows(split)), {}))

    def _finish(self, parent: Trial) -> None:
        """Cuts one finalist out and trains it; its weights are on disk before its line is in the log."""
        job, began = self.job, time.monotonic()
        d, trial = job.space.parse(parent.text), self.study.next_id
        finalist = self._finalist(d)
        if finalist.parameters:
            steps, seed = job.train_steps, job.config.seed + FINAL_SEED
            try:
                self._trained(f"final {parent.id}", steps, seed, finalist.training, quiet=True)
            except NonFiniteLoss as error:
                self.study.fail(d, str(error), stage="final", parent=parent.id, seconds=time.monotonic() - began)
                self._checkpoint("").clear()
                return
        kept = {id(p) for p in finalist.parameters}
        tensors = {name: p for name, p in finalist.module.named_parameters() if id(p) in kept}
        save_tensors(weights_of(self.path, trial), tensors, {"text": parent.text})
        values, extra = finalist.told("validation")
        if job.data.size("test"):
            extra = {**extra, "test": finalist.told("test")[0]}
        values = values | self._cost(d)
        self.study.tell(d, values, seconds=time.monotonic() - began, stage="final", parent=parent.id, extra=extra)
        self._checkpoint("").clear()
