"""The phases of an architecture search: candidates on shared weights, then finalists trained from scratch.

Each candidate starts from the bank (`supernet.Bank`), trains for a while, is scored on validation rows and writes back;
`--evaluate train` trains each from nothing instead. The finalists train from nothing on three seeds; the first seed's
network is kept, and tested once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from archrank.grammar import Architecture, Derivation
from archrank.grammar.coincidence import coinciding
from archrank.grammar.heads import member_outputs
from archrank.search.architecture_dispatching import finishers, in_order, train_in_batches, trainers
from archrank.search.architecture_job import FINAL_SEEDS, ArchitectureJob, search_steps
from archrank.search.architecture_training import (
    Finished,
    TrialTimeout,
    finished,
    fit_network,
    rungs_of,
    search_seed,
    trained,
)
from archrank.search.halving import all_promotable, promotable
from archrank.search.phases import Shell
from archrank.search.selection import by_cost
from archrank.search.space_shrinking import (
    dropped_productions,
    record,
    remaining,
    round_due,
    scored_trials,
    shrink_event,
)
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


IN_TURN = (
    "each candidate starts from the weights that the one before left in the bank, so the search stays in this process; "
    "finalists are trained on the workers. --evaluate train trains all of them there"
)
SHRINKING = (
    "a space of ensembles shrinks while it is searched, so the search stays in this process (--shrink-rounds 0: on the "
    "workers); finalists are trained on the workers"
)


def network_of(run: Path, trial: int) -> Path:
    """The file of a finalist's weights."""
    return run / "networks" / f"{trial}.safetensors"


class ArchitecturePhases(Shell):
    """One pass over the phases."""

    def __init__(self, job: ArchitectureJob, path: Path, cluster: Cluster | None = None) -> None:
        super().__init__(job, path, job.header(), cluster)
        self.job = job
        self.study = self._study()
        self.bank = Bank(job.space)
        self.relatives = Relatives()
        self.included = 0
        self.rungs = rungs_of(job)
        self.saved = time.monotonic()

    def phases(self) -> None:
        """Search, then finalists."""
        if self.job.config.evaluate == "inherited":
            self._restore()
        try:
            self._search()
        finally:
            self._save()
        self._worst()
        chosen = by_cost(self._longest(), self.job.objectives, self.job.config.finalists)
        self._finish_chosen(chosen)

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
        done = [t for t in self._inherited() if t.state == "done"]
        for trial in [t for t in done if t.id < self.included][-KEPT:]:
            self.relatives.add(self.job.architecture(self.job.space.parse(trial.text)))
        for trial in (t for t in done if t.id >= self.included):
            self._trained(self.job.space.parse(trial.text), trial.id)
            self.included = trial.id + 1

    def _save(self) -> None:
        if self.job.config.evaluate == "inherited":
            save_tensors(self._file, self.bank.state_dict(), {"included": self.included, "order": self.bank.order()})
            self.saved = time.monotonic()

    def _after(self) -> None:
        self._shrink()
        self._promote()
        if time.monotonic() - self.saved > 60 * self.job.config.save_minutes:
            self._save()

    # -- search -----------------------------------------------------------------------------------------------------

    def _study(self) -> Study:
        """Over what is left of the space."""
        job, gone = self.job, set[int]()
        for number in range(job.config.shrink_rounds):
            event = shrink_event(self.log, number)
            gone |= dropped_productions(event) if event else set()
        strategy = remaining(job.space, job.config.strategy, job.objectives, job.config.seed, gone)
        space = job.space.without(gone) if gone else job.space
        return Study(space, job.objectives, strategy, job.config.seed, constraints=job.constraints, log=self.log)

    def _shrink(self) -> None:
        """The rounds that are due in a space of ensembles, by the candidates since the last one."""
        recipe, trials = self.job.recipe, self._inherited()
        if recipe is None:
            return
        wanted = self.job.config.trials
        for number in range(round_due(wanted, len(trials), recipe.rounds)):
            if shrink_event(self.log, number) is None:
                began = time.monotonic()
                since = trials[wanted * number // (recipe.rounds + 1) :]
                scores = scored_trials(self.study.space, since, recipe)
                gone = record(self.log, number, recipe, scores, time.monotonic() - began)
                self.progress.note(f"left the space: {', '.join(gone) or 'nothing'}")
                listeners, self.study = self.study.listeners, self._study()
                self.study.listeners = listeners

    def _promote(self) -> None:
        """Trains for longer whoever is among the best of a rung, until nobody is (`search.halving`)."""
        while len(self.rungs) > 1:
            found = promotable(self._on_rungs(), self.job.objectives, self.job.config.reduction)
            if found is None:
                return
            self._trained_longer(*found)
            self._pause()

    def _on_rungs(self) -> list[dict[int, Mapping[str, float]]]:
        """For each rung the values of its candidates by the id of their first trial; {} for one that failed there."""
        rungs: list[dict[int, Mapping[str, float]]] = [{} for _ in self.rungs]
        rungs[0] = {t.id: t.values for t in self._inherited() if t.state == "done"}
        for e in self.log.events:
            if e.get("event") == "rung":
                rungs[int(e["rung"])][int(e["trial"])] = e["values"]
        for t in self.study.trials:
            if t.stage == "reranked" and t.parent is not None:
                rungs[-1][t.parent] = t.values
        return rungs

    def _trained_longer(self, number: int, rung: int) -> None:
        """Trains a candidate anew for a rung's steps."""
        trial, began = next(t for t in self._inherited() if t.id == number), time.monotonic()
        try:
            told = self._trained(self.job.space.parse(trial.text), number, self.rungs[rung])
        except (NonFiniteLoss, TrialTimeout) as error:
            self._keep(trial, rung, None, str(error), time.monotonic() - began)
        else:
            self._keep(trial, rung, told, None, time.monotonic() - began)

    def _keep(
        self, trial: Trial, rung: int, told: Mapping[str, float] | None, reason: str | None, seconds: float
    ) -> None:
        """The last rung leaves a trial, the others a line in the log."""
        d, last = self.job.space.parse(trial.text), rung == len(self.rungs) - 1
        values = {} if told is None else {**told, **self.job.price(self.job.architecture(d))}
        if not last:
            self.log.event({"event": "rung", "trial": trial.id, "rung": rung, "values": values})
        elif told is None:
            self.study.fail(d, reason or "no reason given", stage="reranked", parent=trial.id, seconds=seconds)
        else:
            extra = {"steps": self.rungs[rung]}
            self.study.tell(d, values, stage="reranked", parent=trial.id, seconds=seconds, extra=extra)

    @property
    def _batched(self) -> bool:
        """Whether a batch is trained before any of it is told, on workers or as `--propose` asks."""
        config = self.job.config
        independent = config.evaluate == "train" and self.job.recipe is None
        return independent and (self.cluster is not None or config.batch > 1)

    def _search(self) -> None:
        config = self.job.config
        if self._batched:
            done = len(self._inherited())
            self.progress.phase("search", total=config.trials, unit="trials", done=done)
            train_in_batches(self.job, self.study, self, self._refused, done)
            self._climb()
            return
        if self.cluster is not None:
            self.remark(IN_TURN if config.evaluate == "inherited" else SHRINKING)
        self._shrink()
        self._promote()
        self._search_all(self._evaluate, self._after)

    def _climb(self) -> None:
        """Rung after rung, all who go up at a time: in step, who they are depends on no order of trainings."""
        if len(self.rungs) < 2:
            return
        with trainers(self.job, self) as evaluator:
            for rung in range(1, len(self.rungs)):
                below, above = self._on_rungs()[rung - 1 : rung + 1]
                up = all_promotable(below, above, self.job.objectives, self.job.config.reduction)
                chosen = [t for t in self._inherited() if t.id in up]
                self.progress.phase(f"rung of {self.rungs[rung]} steps", total=len(chosen), unit="candidates")
                for trial in chosen:
                    evaluator.submit(trial.id, (trial.text, trial.id, self.rungs[rung]))
                for place, (trial, done) in enumerate(in_order(chosen, evaluator), 1):
                    self._keep(trial, rung, done.values, done.reason, done.seconds)
                    self._show(place)
                    self._pause()

    def after(self, told: int) -> None:
        """Progress and the safe point, after each trial of a batch."""
        self._show(told, total=self.job.config.trials)
        self._pause()

    def _evaluate(self, d: Derivation) -> None:
        """One candidate: its price, and where that meets the constraints its training and score."""
        began, number = time.monotonic(), self.study.next_id - 1
        architecture = self.job.architecture(d)
        cost = self.job.price(architecture)
        reason = self._refused(cost)[0] or self.job.too_large(architecture)
        if reason:
            self.study.tell(d, cost, seconds=time.monotonic() - began, infeasible=reason)
            return
        try:
            told = self._trained(d, number, self.rungs[0])
        except (NonFiniteLoss, TrialTimeout) as error:
            self.study.fail(d, str(error), seconds=time.monotonic() - began)
            return
        self.study.tell(d, {**told, **cost}, seconds=time.monotonic() - began, extra=self._members(architecture))
        self.included = number + 1

    def _members(self, architecture: Architecture) -> dict[str, object]:
        """How many members an ensemble has, and which of them have the same ops; {} of any other network."""
        members = len(member_outputs(architecture))
        if not members:
            return {}
        same = coinciding(architecture)
        if same:
            told = ", ".join(f"{i} and {j}" for i, j in same)
            self.progress.note(f"members of the ensemble coincide in their ops and differ by weights alone: {told}")
        return {"members": members} | ({"coinciding": [list(pair) for pair in same]} if same else {})

    def _trained(self, d: Derivation, number: int, steps: int = 0) -> dict[str, float]:
        """Values of a candidate after its training (from nothing: for `steps`); a function of the bank, the seed and
        the trial's number.
        """
        config, architecture = self.job.config, self.job.architecture(d)
        seed = search_seed(self.job, number)
        if config.evaluate == "train":
            return trained(self.job, d.text, number, steps, self._tick(quiet=True))
        network = self.bank.build(architecture, seed=seed, parent=self.relatives.nearest(architecture))
        fit_network(self.job, network, search_steps(self.job.train_steps), seed, self._tick(quiet=True))
        self.bank.update(architecture, network)
        self.relatives.add(architecture)
        return score(network, self.job.data, "validation", config.eval_rows)

    # -- finalists --------------------------------------------------------------------------------------------------

    def _longest(self) -> list[Trial]:
        """Candidates trained to the last rung; where these are fewer than the finalists, the others too."""
        top = [t for t in self.study.trials if t.stage == "reranked" and t.state == "done"]
        if len(top) >= self.job.config.finalists:
            return top
        held = {t.key for t in top}
        return top + [t for t in self._inherited() if t.key not in held]

    def _finish_chosen(self, chosen: Sequence[Trial]) -> None:
        """The finalists that are not in the log yet, here or on workers."""
        done = {t.parent for t in self.study.trials if t.stage == "final"}
        left = [parent for parent in chosen if parent.id not in done]
        if self.cluster is None or not left:
            self._finish_all(chosen, lambda parent: self._finish(parent, self._here(parent)))
            return
        with finishers(self.job, self, left) as outcomes:
            self._finish_all(chosen, lambda parent: self._finish(parent, outcomes(parent)))

    def _here(self, parent: Trial) -> Iterator[Finished]:
        return (finished(self.job, parent.text, k, self._tick(quiet=True)) for k in range(FINAL_SEEDS))

    def _finish(self, parent: Trial, trainings: Iterable[Finished]) -> None:
        """Records a finalist trained from nothing on each seed; its weights are on disk before its line is in the
        log.
        """
        d, trial = self.job.space.parse(parent.text), self.study.next_id
        architecture, each, seconds = self.job.architecture(d), list[Finished](), 0.0
        for found in trainings:
            seconds += found.seconds
            if found.failed:
                self.study.fail(d, found.failed, stage="final", parent=parent.id, seconds=seconds)
                return
            each.append(found)
        first = each[0]
        save_tensors(network_of(self.path, trial), first.tensors, {"text": parent.text})
        told = [found.values for found in each]
        values = {name: float(np.mean([t[name] for t in told])) for name in told[0]} | self.job.price(architecture)
        extra: dict[str, object] = {"seeds": told} | ({"test": first.test} if first.test else {})
        extra |= self._members(architecture)
        self.study.tell(d, values, seconds=seconds, stage="final", parent=parent.id, extra=extra)
