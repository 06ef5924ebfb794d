"""The phases of an architecture search: candidates on shared weights, then finalists trained from scratch.

Each candidate starts from the bank (`supernet.Bank`), trains for a while, is scored on validation rows and writes back;
`--evaluate train` trains each from nothing instead. The finalists train from nothing on three seeds; the first seed's
network is kept, and tested once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from archrank.grammar import Derivation
from archrank.search.architecture_job import FINAL_SEEDS, ArchitectureJob, search_steps
from archrank.search.pareto import Scale
from archrank.search.phases import Shell
from archrank.search.selection import spread
from archrank.search.study import Study
from archrank.search.trial import Trial
from archrank.supernet.bank import Bank
from archrank.supernet.checkpoint import load_tensors, save_tensors
from archrank.supernet.network_training import fit, score
from archrank.supernet.networks import build
from archrank.supernet.relatives import KEPT, Relatives
from archrank.supernet.training import NonFiniteLoss, TrainPlan

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

__all__ = ["ArchitecturePhases", "network_of"]

WEIGHT_DECAY = 0.01


def network_of(run: Path, trial: int) -> Path:
    """The file of a finalist's weights."""
    return run / "networks" / f"{trial}.safetensors"


class ArchitecturePhases(Shell):
    """One pass over the phases."""

    def __init__(self, job: ArchitectureJob, path: Path, cluster: Cluster | None = None) -> None:
        super().__init__(job, path, job.header(), cluster)
        self.job = job
        self.study = Study(
            job.space, job.objectives, job.config.strategy, job.config.seed, constraints=job.constraints, log=self.log
        )
        self.bank = Bank(job.space)
        self.relatives = Relatives()
        self.included = 0
        self.saved = time.monotonic()

    def phases(self) -> None:
        """Search, then finalists."""
        if self.job.config.evaluate == "inherited":
            self._restore()
        try:
            self._search()
        finally:
            self._save()
        self._reference()
        self._finalists()

    # -- the bank ---------------------------------------------------------------------------------------------------

    @property
    def _file(self) -> Path:
        return self.path / "supernet.safetensors"

    def _restore(self) -> None:
        """The bank as it was after the last trial of the log: what was trained since it was saved is trained again."""
        if self._file.exists():
            tensors, meta = load_tensors(self._file)
            names = meta.get("order", [])
            assert isinstance(names, list)
            self.bank.load_state_dict(tensors, [str(name) for name in names])
            self.included = int(str(meta["included"]))
        done = [t for t in self._searched() if t.state == "done"]
        for trial in [t for t in done if t.id < self.included][-KEPT:]:
            self.relatives.add(self.job.architecture(self.job.space.parse(trial.text)))
        for trial in (t for t in done if t.id >= self.included):
            self._trained(self.job.space.parse(trial.text), trial.id)
            self.included = trial.id + 1

    def _save(self) -> None:
        if self.job.config.evaluate == "inherited":
            save_tensors(self._file, self.bank.state_dict(), {"included": self.included, "order": self.bank.order()})
            self.saved = time.monotonic()

    # -- search -----------------------------------------------------------------------------------------------------

    def _searched(self) -> list[Trial]:
        return [t for t in self.study.trials if t.stage == "inherited"]

    def _search(self) -> None:
        wanted = self.job.config.trials
        self.progress.phase("search", total=wanted, unit="trials", done=len(self._searched()))
        while (n := len(self._searched())) < wanted:
            asked = self.study.ask(1)
            if not asked:
                self.progress.note(f"every candidate of the space is priced after {n} trials")
                break
            self._evaluate(asked[0])
            self._show(n + 1)
            if time.monotonic() - self.saved > 60 * self.job.config.save_minutes:
                self._save()
            self._pause()

    def _evaluate(self, d: Derivation) -> None:
        """One candidate: its price, and where that meets the constraints its training and score."""
        began, number = time.monotonic(), self.study.next_id - 1
        architecture = self.job.architecture(d)
        cost = self.job.price(architecture)
        broken = [c for c in self.job.constraints if c.name in cost and not c.holds(cost)]
        reason = f"does not meet {broken[0]}" if broken else self.job.too_large(architecture)
        if reason:
            self.study.tell(d, cost, seconds=time.monotonic() - began, infeasible=reason)
            return
        try:
            told = self._trained(d, number)
        except NonFiniteLoss as error:
            self.study.fail(d, str(error), seconds=time.monotonic() - began)
            return
        self.study.tell(d, {**told, **cost}, seconds=time.monotonic() - began)
        self.included = number + 1

    def _trained(self, d: Derivation, number: int) -> dict[str, float]:
        """Values of a candidate after its training; a function of the bank, the seed and the trial's number."""
        config, architecture = self.job.config, self.job.architecture(d)
        seed = config.seed + 10_000 + number
        if config.evaluate == "train":
            network: nn.Module = build(architecture, seed)
            self._fit(network, self.job.train_steps, seed)
            return score(network, self.job.data, "validation", config.eval_rows)
        network = self.bank.build(architecture, seed=seed, parent=self.relatives.nearest(architecture))
        self._fit(network, search_steps(self.job.train_steps), seed)
        self.bank.update(architecture, network)
        self.relatives.add(architecture)
        return score(network, self.job.data, "validation", config.eval_rows)

    def _fit(self, network: nn.Module, steps: int, seed: int) -> None:
        config = self.job.config
        assert config.lr is not None
        assert config.batch_size is not None
        network.to(config.device)
        plan = TrainPlan(steps, config.lr, seed=seed, weight_decay=WEIGHT_DECAY)
        fit(network, self.job.data, plan, config.batch_size, self._tick(quiet=True))

    # -- finalists --------------------------------------------------------------------------------------------------

    def _reference(self) -> None:
        """The worst of each objective among the candidates: the corner that hypervolume is measured from."""
        saved = next((e for e in self.log.events if e.get("event") == "reference"), None)
        if saved is None:
            done = [t for t in self._searched() if t.state == "done"]
            if not done:
                return
            worst = {
                o.name: (max if o.direction == "min" else min)(t.values[o.name] for t in done)
                for o in self.job.objectives
            }
            saved = {"event": "reference", "values": worst}
            self.log.event(saved)
        self.scale = Scale.from_json(self.job.objectives, saved)

    def _finalists(self) -> None:
        chosen = to_finish(self._searched(), self.job)
        done = {t.parent for t in self.study.trials if t.stage == "final"}
        self.progress.phase("finalists", total=len(chosen), unit="candidates")
        for place, parent in enumerate(chosen, 1):
            if parent.id not in done:
                self._finish(parent)
            self._show(place)

    def _finish(self, parent: Trial) -> None:
        """Trains one finalist from scratch on each seed; its weights are on disk before its line is in the log."""
        d, began = self.job.space.parse(parent.text), time.monotonic()
        architecture, trial = self.job.architecture(d), self.study.next_id
        told, test = list[dict[str, float]](), dict[str, float]()
        for k in range(FINAL_SEEDS):
            seed = self.job.config.seed + 1000 * (1 + k) + 500
            network = build(architecture, seed)
            try:
                self._fit(network, self.job.train_steps, seed)
            except NonFiniteLoss as error:
                self.study.fail(d, str(error), stage="final", parent=parent.id, seconds=time.monotonic() - began)
                return
            told.append(score(network, self.job.data, "validation"))
            if k == 0:
                save_tensors(network_of(self.path, trial), _tensors(network), {"text": parent.text})
                if self.job.data.size("test"):
                    test = score(network, self.job.data, "test")
        values = {name: float(np.mean([t[name] for t in told])) for name in told[0]} | self.job.price(architecture)
        extra: dict[str, object] = {"seeds": told} | ({"test": test} if test else {})
        seconds = time.monotonic() - began
        self.study.tell(d, values, seconds=seconds, stage="final", parent=parent.id, extra=extra)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach() for name, t in network.state_dict().items()}


def to_finish(trials: Sequence[Trial], job: ArchitectureJob) -> list[Trial]:
    """The finalists: the best of each part when the candidates are cut by their first cost into as many equal parts."""
    pool = [t for t in trials if t.state == "done"]
    wanted = min(job.config.finalists, len(pool))
    if not wanted:
        return []
    if len(job.objectives) == 1:
        return spread([pool], wanted, job.objectives)
    cost = job.objectives[1]
    pool.sort(key=lambda t: (cost.sign * t.values[cost.name], t.id))
    parts = [[pool[int(i)] for i in part] for part in np.array_split(np.arange(len(pool)), wanted)]
    return spread(parts, wanted, job.objectives)
