"""The phases of an architecture search: candidates on shared weights, then finalists trained from scratch.

Each candidate starts from the bank (`supernet.Bank`), trains for a while, is scored on validation rows and writes back;
`--evaluate train` trains each from nothing instead. The finalists train from nothing on three seeds; the first seed's
network is kept, and tested once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from archrank.grammar import Derivation
from archrank.search.architecture_job import FINAL_SEEDS, ArchitectureJob, search_steps
from archrank.search.architecture_training import finished, fit_network, search_seed, trained
from archrank.search.dispatch import Done, Evaluator, Here, Search
from archrank.search.expression import Constraint
from archrank.search.pareto import Scale
from archrank.search.phases import Shell
from archrank.search.selection import spread
from archrank.search.study import Study
from archrank.search.trial import Trial
from archrank.supernet.bank import Bank
from archrank.supernet.checkpoint import load_tensors, save_tensors
from archrank.supernet.network_training import score
from archrank.supernet.relatives import KEPT, Relatives
from archrank.supernet.training import NonFiniteLoss

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

__all__ = ["ArchitecturePhases", "network_of"]


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
        done = len(self._searched())
        self.progress.phase("search", total=self.job.config.trials, unit="trials", done=done)
        if done >= self.job.config.trials:
            return
        if self.job.config.evaluate == "train":
            search = self._independent(done)
        else:
            if self.cluster is not None:
                self.remark(
                    "each candidate starts from the weights that the one before left in the bank, so the search stays "
                    "in this process; finalists are trained on the workers. --evaluate train trains all of them there"
                )
            here = Here(lambda item: self._inherited(*item), failures=(NonFiniteLoss,))
            search = Search(self.study, here, self._priced, self.job.constraints, self.job.config.trials, told=done)
            search.each = self._after
            search.run()
        if search.exhausted:
            self.progress.note(f"every candidate of the space is priced after {search.told} trials")

    def _independent(self, done: int) -> Search:
        """Trainings from nothing: here, or as trials of Ray Tune."""
        config = self.job.config

        def train(item: tuple[str, int]) -> dict[str, float]:
            return trained(self.job, *item, self._tick(quiet=True))

        search = Search(
            self.study,
            Here(train, failures=(NonFiniteLoss,)),
            self._priced,
            self.job.constraints,
            config.trials,
            propose=config.batch,
            asynchronous=config.asynchronous,
            each=self._after,
            told=done,
        )
        if self.cluster is None:
            search.run()
        else:
            from archrank.search.ray.training import train_on_tune

            train_on_tune(self.job, search, self.cluster, self.path / "tune", self)
        return search

    def _after(self, told: int) -> None:
        self._show(told, total=self.job.config.trials)
        if time.monotonic() - self.saved > 60 * self.job.config.save_minutes:
            self._save()
        self._pause()

    def _priced(self, d: Derivation) -> tuple[tuple[str, int], dict[str, float], str | None, tuple[Constraint, ...]]:
        """(sentence, number), prices, and where they do not meet the constraints the reason not to train it."""
        architecture = self.job.architecture(d)
        cost = self.job.price(architecture)
        broken = [c for c in self.job.constraints if c.name in cost and not c.holds(cost)]
        reason = f"does not meet {broken[0]}" if broken else self.job.too_large(architecture)
        return (d.text, self.study.id_of(d)), cost, reason, self.job.constraints

    def _inherited(self, text: str, number: int) -> dict[str, float]:
        told = self._trained(self.job.space.parse(text), number)
        self.included = number + 1
        return told

    def _trained(self, d: Derivation, number: int) -> dict[str, float]:
        """Values of a candidate after a short training; a function of the bank, the seed and the trial's number."""
        architecture, seed = self.job.architecture(d), search_seed(self.job, number)
        network = self.bank.build(architecture, seed=seed, parent=self.relatives.nearest(architecture))
        fit_network(self.job, network, search_steps(self.job.train_steps), seed, self._tick(quiet=True))
        self.bank.update(architecture, network)
        self.relatives.add(architecture)
        return score(network, self.job.data, "validation", self.job.config.eval_rows)

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
        left = [parent for parent in chosen if parent.id not in done]
        with self._finisher() as evaluator:
            for parent in left:
                for k in range(FINAL_SEEDS):
                    evaluator.submit((parent.id, k), (parent.text, k))
            told: dict[tuple[int, int], Done] = {}
            for place, parent in enumerate(left, 1 + len(chosen) - len(left)):
                keys = [(parent.id, k) for k in range(FINAL_SEEDS)]
                while any(key not in told for key in keys):
                    told |= {d.key: d for d in evaluator.collect()}  # type: ignore[misc]
                self._finish(parent, [told.pop(key) for key in keys])
                self._show(place)

    @contextmanager
    def _finisher(self) -> Iterator[Evaluator]:
        """Here, or on workers: each finalist and seed is a training of its own."""
        job = self.job
        if self.cluster is None:
            yield Here(lambda item: finished(job, item[0], item[1], self._tick(quiet=True)))
            return
        from archrank.search.ray.training import finisher_of

        with finisher_of(self.cluster, job, self) as evaluator:
            yield evaluator

    def _finish(self, parent: Trial, each: list[Done]) -> None:
        """Records a finalist trained from nothing on each seed; its weights are on disk before its line is in the
        log.
        """
        d, trial = self.job.space.parse(parent.text), self.study.next_id
        seconds = sum(done.seconds for done in each)
        outcomes = [done.values for done in each]
        reason = next((done.reason for done in each if done.reason), None)
        reason = reason or next((o.diverged for o in outcomes if o.diverged), None)
        if reason:
            self.study.fail(d, reason, stage="final", parent=parent.id, seconds=seconds)
            return
        told = [o.values for o in outcomes]
        save_tensors(network_of(self.path, trial), outcomes[0].tensors, {"text": parent.text})
        values = {name: float(np.mean([t[name] for t in told])) for name in told[0]}
        values |= self.job.price(self.job.architecture(d))
        extra: dict[str, object] = {"seeds": told} | ({"test": outcomes[0].test} if outcomes[0].test else {})
        self.study.tell(d, values, seconds=seconds, stage="final", parent=parent.id, extra=extra)


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
