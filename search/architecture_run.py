"""The phases of an architecture search: candidates on shared weights, then finalists trained from scratch.

Each candidate starts from the bank (`supernet.Bank`), trains for a while, is scored on validation rows and writes back;
`--evaluate train` trains each from nothing instead. The finalists train from nothing on three seeds; the first seed's
network is kept, and tested once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from archrank.grammar import Architecture, Derivation
from archrank.grammar.coincidence import coinciding
from archrank.grammar.heads import member_outputs
from archrank.search.architecture_job import FINAL_SEEDS, ArchitectureJob, search_steps
from archrank.search.halving import promotable, rung_steps
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
from archrank.supernet.network_training import fit, score
from archrank.supernet.networks import build
from archrank.supernet.relatives import KEPT, Relatives
from archrank.supernet.training import NonFiniteLoss, TrainPlan

__all__ = ["ArchitecturePhases", "network_of"]

WEIGHT_DECAY = 0.01


def network_of(run: Path, trial: int) -> Path:
    """The file of a finalist's weights."""
    return run / "networks" / f"{trial}.safetensors"


class TrialTimeout(RuntimeError):
    """A training that takes longer than --trial-timeout."""


class ArchitecturePhases(Shell):
    """One pass over the phases."""

    def __init__(self, job: ArchitectureJob, path: Path) -> None:
        super().__init__(job, path, job.header())
        self.job = job
        self.study = self._study()
        self.bank = Bank(job.space)
        self.relatives = Relatives()
        self.included = 0
        halving = job.config.evaluate == "train" and job.config.reduction > 1
        self.rungs = rung_steps(job.train_steps, job.config.reduction) if halving else [job.train_steps]
        self.saved = time.monotonic()

    def phases(self) -> None:
        """Search, then finalists."""
        if self.job.config.evaluate == "inherited":
            self._restore()
        try:
            self._shrink()
            self._promote()
            self._search_all(self._evaluate, self._after)
        finally:
            self._save()
        self._worst()
        chosen = by_cost(self._longest(), self.job.objectives, self.job.config.finalists)
        self._finish_all(chosen, self._finish)

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
                self.study = self._study()

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
        """Trains a candidate anew for a rung's steps; the last rung leaves a trial, the others a line in the log."""
        trial = next(t for t in self._inherited() if t.id == number)
        d, began = self.job.space.parse(trial.text), time.monotonic()
        last = rung == len(self.rungs) - 1
        try:
            told = self._trained(d, number, self.rungs[rung]) | self.job.price(self.job.architecture(d))
        except (NonFiniteLoss, TrialTimeout) as error:
            if last:
                seconds = time.monotonic() - began
                self.study.fail(d, str(error), stage="reranked", parent=number, seconds=seconds)
            else:
                self.log.event({"event": "rung", "trial": number, "rung": rung, "values": {}})
            return
        if last:
            extra = {"steps": self.rungs[rung]}
            seconds = time.monotonic() - began
            self.study.tell(d, told, stage="reranked", parent=number, seconds=seconds, extra=extra)
        else:
            self.log.event({"event": "rung", "trial": number, "rung": rung, "values": told})

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
        seed = config.seed + 10_000 + number
        if config.evaluate == "train":
            network: nn.Module = build(architecture, seed)
            self._fit(network, steps, seed)
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
        limit, began, tick = config.trial_timeout, time.monotonic(), self._tick(quiet=True)

        def timed(done: int, loss: float) -> None:
            tick(done, loss)
            if limit is not None and time.monotonic() - began > limit:
                raise TrialTimeout(f"still training after {limit:g} s (--trial-timeout), at step {done} of {steps}")

        fit(network, self.job.data, plan, config.batch_size, timed)

    # -- finalists --------------------------------------------------------------------------------------------------

    def _longest(self) -> list[Trial]:
        """Candidates trained to the last rung; where these are fewer than the finalists, the others too."""
        top = [t for t in self.study.trials if t.stage == "reranked" and t.state == "done"]
        if len(top) >= self.job.config.finalists:
            return top
        held = {t.key for t in top}
        return top + [t for t in self._inherited() if t.key not in held]

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
            except (NonFiniteLoss, TrialTimeout) as error:
                self.study.fail(d, str(error), stage="final", parent=parent.id, seconds=time.monotonic() - began)
                return
            told.append(score(network, self.job.data, "validation"))
            if k == 0:
                save_tensors(network_of(self.path, trial), _tensors(network), {"text": parent.text})
                if self.job.data.size("test"):
                    test = score(network, self.job.data, "test")
        values = {name: float(np.mean([t[name] for t in told])) for name in told[0]} | self.job.price(architecture)
        extra: dict[str, object] = {"seeds": told} | ({"test": test} if test else {}) | self._members(architecture)
        seconds = time.monotonic() - began
        self.study.tell(d, values, seconds=seconds, stage="final", parent=parent.id, extra=extra)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach() for name, t in network.state_dict().items()}
