"""The first phases of a rank search: the supernet or a tracing policy's chain, the reference point, the search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from archrank import grammar
from archrank.search import candidates, strategies, summary
from archrank.search.base_phases import BasePhases
from archrank.search.dispatching import search_in_batches
from archrank.search.job import Job
from archrank.search.pareto import Scale
from archrank.search.pricing import trained_params
from archrank.search.racing import MEASURED, Rivals, Scorer
from archrank.search.starting_points import starting_points
from archrank.search.strata import Strata
from archrank.search.study import Study
from archrank.search.supernet_training import SUPERNET_FILE, keep_supernet, launch, start_store
from archrank.search.traced import Points
from archrank.search.traced import points as traced_points
from archrank.search.tuning import Lesson
from archrank.supernet.checkpoint import Checkpoint, adapter_tensors, load_adapters, load_tensors, save_tensors
from archrank.supernet.net import Elastic
from archrank.supernet.training import Tick, TrainPlan, train

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

__all__ = ["RankSearch"]


class RankSearch(BasePhases):
    """Up to every candidate's inherited values."""

    def __init__(self, job: Job, path: Path, cluster: Cluster | None = None) -> None:
        super().__init__(job, path, summary.header(job), cluster)
        self.job = job
        space, config = job.space, job.config
        self.strata = Strata(space, candidates.budget_edges(space, job.net.shapes))
        self.study = Study(
            space, job.objectives, self.strata.strategy(config.strategy, job.objectives, config.seed), log=self.log
        )

    def _supernet(self) -> None:
        file = self.path / SUPERNET_FILE
        net = self.job.net
        if not file.exists():
            if (processes := self.job.config.processes) > 1:
                began = time.monotonic()
                launch(self.path, processes, self._pause)
                seconds = time.monotonic() - began
            else:
                start_store(self.job)
                seconds = self._train("supernet", net, self._chain_steps, self.job.config.seed, policy=True)
                keep_supernet(self.job, self.path)
            self.log.event({"event": "phase", "name": "supernet", "seconds": round(seconds, 3)})
            self._checkpoint("supernet").clear()
        tensors, meta = load_tensors(file)
        if meta.get("collapse"):
            self._collapsed(int(str(meta["collapse"])), "the last gates that were not all 0 are kept")
        load_adapters(net.items(), tensors)
        net.eval()

    def _collapsed(self, step: int, kept: str) -> None:
        """Told once a session, and by the report."""
        told = f"gate collapse: after step {step} policy {self.job.config.policy} has set every gate to 0; {kept}"
        if not any(e.get("event") == "collapse" for e in self.log.events):
            self.log.event({"event": "collapse", "step": step, "told": told})
        self.progress.note(told)

    @property
    def _chain_steps(self) -> int:
        return round(self.job.policy.runs * self.job.train_steps)

    def _trace(self) -> None:
        """One chain, read on the way; its last weights are kept as the supernet's."""
        file, folder = self.path / SUPERNET_FILE, self.path / "traced"
        if not file.exists():
            points = Points(self.job, folder, self._chain_steps)
            seconds = self._train(
                "supernet", self.job.net, self._chain_steps, self.job.config.seed, policy=True, after=points
            )
            told = {"r_max": self.job.net.r_max, "collapse": points.collapsed}
            save_tensors(file, adapter_tensors(self.job.net.items()), told)
            self.log.event({"event": "phase", "name": "supernet", "seconds": round(seconds, 3)})
            self._checkpoint("supernet").clear()
        tensors, meta = load_tensors(file)
        if meta.get("collapse"):
            self._collapsed(int(str(meta["collapse"])), "the chain ended there, the points before it are kept")
        load_adapters(self.job.net.items(), tensors)

    def _tell_points(self) -> None:
        """Every point of the chain that the log does not hold yet, evaluated on its own weights."""
        found = traced_points(self.job, self.path / "traced")
        self.progress.phase("trace", total=len(found), unit="points")
        known = {t.key for t in self.study.trials if t.stage == "inherited"}
        for place, (ranks, net) in enumerate(found, 1):
            try:
                derivation = self.job.space.from_ranks(ranks)
            except ValueError:
                continue  # outside of a tightened space
            if derivation.key in known:
                continue
            began = time.monotonic()
            values = {**self.job.score(net, "validation"), **self.job.pricer.price(ranks)}
            weights = adapter_tensors(net.items())
            save_tensors(candidates.weights_of(self.path, self.study.next_id), weights, {"text": derivation.text})
            self.study.tell(derivation, values, seconds=time.monotonic() - began, constraints=self.job.constraints)
            self._show(place)
            self._pause()

    def _reference(self) -> None:
        """The bare base's values and the dearest candidate's cost: the corner that hypervolume is measured from, saved
        with the run.
        """
        saved = next((e for e in self.log.events if e.get("event") == "reference"), None)
        if saved is None:
            base = self._values({})
            largest = self._values(self.job.net.largest)
            worst = {
                o.name: (max if o.direction == "min" else min)(base[o.name], largest[o.name])
                for o in self.job.objectives
            }
            floor = min(trained_params(self.job.family, shape, 1) for shape in self.job.net.shapes.values())
            saved = {"event": "reference", "values": worst, "floor": floor, "base": base, "r_max": largest}
            self.log.event(saved)
        self.scale = Scale.from_json(self.job.objectives, saved)

    def _search(self) -> None:
        """What needs no search first; then one candidate after the other, or in batches where several are proposed at
        a time.
        """
        first = partial(starting_points, self.job)
        if self.cluster is None and self.job.config.batch == 1:
            self._search_all(self._evaluate, first=first)
            return
        self._begin(self._evaluate, first)
        search_in_batches(self.job, self.study, self, self._refused, self._after, len(self._inherited()))

    def _after(self, told: int) -> None:
        self._show(told, total=self.job.config.trials)
        self._pause()

    def _evaluate(self, derivation: grammar.Derivation) -> None:
        """One candidate: its price, and where that meets the constraints its inherited values; a hopeless one is
        stopped early.
        """
        began = time.monotonic()
        ranks = self.job.ranks(derivation)
        cost = self.job.pricer.price(ranks)
        reason, broken = self._refused(cost)
        if reason := reason or self.job.pricer.too_large(cost):
            seconds = time.monotonic() - began
            self.study.tell(derivation, cost, seconds=seconds, infeasible=reason, constraints=broken)
            return
        rivals = self._rivals
        scored = self._scorer.score(ranks, None if rivals is None else rivals.against(cost))
        told = self.study.tell(
            derivation,
            {**scored.values, **cost},
            seconds=time.monotonic() - began,
            constraints=self.job.constraints,
            extra=scored.extra,
        )
        if rivals:
            rivals.add(told)

    @cached_property
    def _rivals(self) -> Rivals | None:
        """None where every row is read: as asked, or because a constraint needs a measured value."""
        job, config = self.job, self.job.config
        blind = not getattr(strategies.load(config.strategy), "looks_at_values", True)
        wanted = config.race == "on" or (config.race == "auto" and blind)
        if not wanted or any(c.name in MEASURED for c in job.constraints):
            return None
        keep = candidates.most_promoted(
            self.strata, config.trials, config.finalists, all_feasible=not self.job.constraints
        )
        rivals = Rivals(self.strata, job.objectives, keep)
        for trial in self.study.trials:
            rivals.add(trial)
        return rivals

    def _values(self, ranks: Mapping[str, int]) -> dict[str, float]:
        return {**self._scorer.score(ranks).values, **self.job.pricer.price(ranks)}

    @cached_property
    def _scorer(self) -> Scorer:
        """Made once the supernet is trained."""
        return Scorer(self.job)

    def _train(
        self,
        purpose: str,
        net: Elastic,
        steps: int,
        seed: int,
        *,
        policy: bool = False,
        lesson: Lesson | None = None,
        after: Callable[[int], bool] | None = None,
    ) -> float:
        """The supernet where `policy`, else quietly a candidate; lesson: default labels alone."""
        job = self.job
        batches, loss = lesson or (job.batches(seed), job.loss)

        def training(plan: TrainPlan, checkpoint: Checkpoint, tick: Tick) -> float:
            return train(
                net,
                batches,
                loss,
                replace(plan, decay=after is None),
                policy=job.policy if policy else None,
                validation=job.validation_batches,
                after=after,
                checkpoint=checkpoint,
                tick=tick,
            )

        return self._trained(purpose, steps, seed, training, quiet=not policy)
