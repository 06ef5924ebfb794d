"""The phases of a run: head, supernet, search, re-rank, finalists. Each reads what is done from the run's folder and
does the rest.

A run is a fold: every phase is a function of the log and the files before it, so `resume` is `start` over a folder
that already holds something.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from archrank import grammar
from archrank.grammar import ops
from archrank.search import candidates, strategies, summary
from archrank.search.architecture_job import ArchitectureJob, prepare_architectures
from archrank.search.architecture_run import ArchitecturePhases
from archrank.search.base_phases import BasePhases
from archrank.search.config import ConfigError, RunConfig, read_share, read_toml, write_toml
from archrank.search.dispatching import search_in_batches
from archrank.search.encoder_job import EncoderJob, prepare_encoders
from archrank.search.encoder_run import EncoderPhases
from archrank.search.ensemble_job import EnsembleJob, prepare_ensembles
from archrank.search.ensemble_run import EnsemblePhases
from archrank.search.job import Job, prepare
from archrank.search.pareto import Scale
from archrank.search.phases import Shell
from archrank.search.place import address_of, check_place, cluster_of, elsewhere
from archrank.search.planning import fitted
from archrank.search.racing import MEASURED, Rivals, Scorer
from archrank.search.reporting import check_report_to
from archrank.search.results import Run, open_run
from archrank.search.storage import RunLock, write_atomic
from archrank.search.strata import Strata
from archrank.search.study import Study
from archrank.search.supernet_training import launch, make_nested
from archrank.search.traced import Points, densest, net_of
from archrank.search.traced import points as traced_points
from archrank.search.tuning import Tuned, load_tuned, tune_together
from archrank.search.verdict import compared, rows_of, within_share
from archrank.supernet.checkpoint import Checkpoint, adapter_tensors, load_adapters, load_tensors, save_tensors
from archrank.supernet.net import Elastic
from archrank.supernet.training import NonFiniteLoss, Tick, TrainPlan, train

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

__all__ = ["resume", "start"]

AnyJobKind = Job | ArchitectureJob | EncoderJob


def start(config: RunConfig) -> Run:
    """Runs `config` in a new folder; ConfigError when the folder holds a run already."""
    path = Path(config.out) if config.out else _free_folder(Path("runs"))
    if (path / "config.toml").exists() or (path / "trials.jsonl").exists():
        raise ConfigError(
            f"--out {path}: holds a run already; go on with `search resume {path}` or choose another folder"
        )
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out {path}: is a file; choose a folder")
    space = _space(config)
    address = address_of(config)
    job = _prepared(config, space)
    if isinstance(job, Job):
        fit, changed = fitted(job)
        if changed:
            job = prepare(fit)
            job = replace(job, warnings=(*job.warnings, changed))
    with cluster_of(config, address) as cluster:
        return _run(job, path, cluster)


def _run(job: AnyJobKind, path: Path, cluster: Cluster | None) -> Run:
    path.mkdir(parents=True, exist_ok=True)
    with RunLock(path):
        # the copy first: a folder with a config.toml can be resumed, whatever happens next
        write_atomic(path / "space.lark", job.space.text.encode())
        write_atomic(path / "config.toml", write_toml(replace(job.config, out=None)).encode())
        return _begun(job, path, cluster).all()


def prepared(config: RunConfig) -> AnyJobKind:
    """Everything loaded and checked, for the kind of space that is asked for."""
    return _prepared(config, _space(config))


def _space(config: RunConfig) -> grammar.Space:
    """The space, and that the run may be where it is asked to be: no model is loaded before."""
    for file in config.ops:
        ops.load_file(file)
    space = grammar.load(config.space)
    check_place(config, space)
    check_report_to(config.report_to)
    return space


def _prepared(config: RunConfig, space: grammar.Space) -> AnyJobKind:
    if space.is_layer_space:
        return prepare_ensembles(config) if space.has_split else prepare_encoders(config)
    if space.is_architecture_space:
        return prepare_architectures(config)
    return prepare(config)


def _begun(job: AnyJobKind, path: Path, cluster: Cluster | None) -> Shell:
    if isinstance(job, EnsembleJob):
        return EnsemblePhases(job, path)
    if isinstance(job, EncoderJob):
        return EncoderPhases(job, path)
    return _Phases(job, path, cluster) if isinstance(job, Job) else ArchitecturePhases(job, path, cluster)


def resume(path: str | Path, *, ray: str | None = None, workers: int | None = None) -> Run:
    """Goes on in a run's folder; a finished run is only read.

    ray, workers: another cluster than before (`none`: this process), which finds the same where the run is in step.
    """
    folder = Path(path)
    if not (folder / "config.toml").exists():
        raise ConfigError(f"{folder}: no run there (no config.toml); start one with `search run SPACE --out {folder}`")
    with RunLock(folder):
        values = read_toml(folder / "config.toml")
        places: dict[str, object] = {"space": str(folder / "space.lark"), "out": str(folder)}
        config = RunConfig(**elsewhere({**values, **places}, ray, workers))  # type: ignore[arg-type]
        if (folder / "trials.jsonl").exists():
            done = open_run(folder)
            if done.kind == "function":
                raise ConfigError(
                    f"{folder}: was made by archrank.optimize, whose function is not kept; to go on call it again with "
                    f"out={str(folder)!r}"
                )
            if done.finished:
                return done
        space = _space(config)
        address = address_of(config)
        job = _prepared(config, space)
        with cluster_of(config, address) as cluster:
            return _begun(job, folder, cluster).all()


def _free_folder(root: Path) -> Path:
    taken = {int(p.name) for p in root.glob("*") if p.name.isdigit()} if root.is_dir() else set()
    return root / str(max(taken, default=0) + 1)


class _Phases(BasePhases):
    """One pass over the phases of a rank search."""

    def __init__(self, job: Job, path: Path, cluster: Cluster | None = None) -> None:
        super().__init__(job, path, summary.header(job), cluster)
        self.job = job
        space, config = job.space, job.config
        self.strata = Strata(space, candidates.budget_edges(space, job.net.shapes))
        self.study = Study(
            space, job.objectives, self.strata.strategy(config.strategy, job.objectives, config.seed), log=self.log
        )

    def phases(self) -> None:
        """Head, supernet, search, re-rank, finalists; a tracing policy's chain stands for supernet and search."""
        self._head()
        if self.job.policy.traces:
            self._trace()
            self._reference()
            self._tell_points()
        else:
            self._supernet()
            self._reference()
            self._search()
        self._rerank()
        self._finalists()

    # -- phases -----------------------------------------------------------------------------------------------------

    def _supernet(self) -> None:
        file = self.path / "supernet.safetensors"
        net = self.job.net
        if not file.exists():
            if (processes := self.job.config.processes) > 1:
                began = time.monotonic()
                launch(self.path, processes, self._pause)
                seconds = time.monotonic() - began
            else:
                seconds = self._train("supernet", net, self._chain_steps, self.job.config.seed, policy=True)
                make_nested(self.job)
                save_tensors(file, adapter_tensors(net.items()), {"r_max": net.r_max})
            self.log.event({"event": "phase", "name": "supernet", "seconds": round(seconds, 3)})
            self._checkpoint("supernet").clear()
        load_adapters(net.items(), load_tensors(file)[0])
        net.eval()

    @property
    def _chain_steps(self) -> int:
        return round(self.job.policy.runs * self.job.train_steps)

    def _trace(self) -> None:
        """One chain, read on the way; its last weights are kept as the supernet's."""
        file, folder = self.path / "supernet.safetensors", self.path / "traced"
        if not file.exists():
            points = Points(self.job, folder, self._chain_steps)
            seconds = self._train(
                "supernet", self.job.net, self._chain_steps, self.job.config.seed, policy=True, after=points
            )
            if points.collapsed is not None:
                self.log.event({"event": "collapse", "step": points.collapsed})
            save_tensors(file, adapter_tensors(self.job.net.items()), {"r_max": self.job.net.r_max})
            self.log.event({"event": "phase", "name": "supernet", "seconds": round(seconds, 3)})
            self._checkpoint("supernet").clear()
        collapse = next((e for e in self.log.events if e.get("event") == "collapse"), None)
        if collapse is not None:
            self.progress.note(
                f"gate collapse: after step {collapse['step']} policy {self.job.config.policy} has set every gate "
                "to 0; the chain ended there, the points before it are kept"
            )
        load_adapters(self.job.net.items(), load_tensors(file)[0])

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
            largest = self._values({name: adapter.rank for name, adapter in self.job.net.items()})
            worst = {
                o.name: (max if o.direction == "min" else min)(base[o.name], largest[o.name])
                for o in self.job.objectives
            }
            floor = min(sum(shape) for shape in self.job.net.shapes.values())
            saved = {"event": "reference", "values": worst, "floor": floor, "base": base, "r_max": largest}
            self.log.event(saved)
        self.scale = Scale.from_json(self.job.objectives, saved)

    def _search(self) -> None:
        """One candidate after the other; in batches where several are proposed at a time."""
        config, done = self.job.config, len(self._inherited())
        if self.cluster is None and config.batch == 1:
            self._search_all(self._evaluate)
            return
        self.progress.phase("search", total=config.trials, unit="trials", done=done)
        search_in_batches(self.job, self.study, self, self._refused, self._after, done)

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

    def _rerank(self) -> None:
        """The best of each stratum, fine-tuned for a while from inherited weights on two seeds: this makes budgets
        comparable.
        """
        chosen = candidates.to_rerank(self.study.trials, self.strata, self.job.objectives, self.job.config.finalists)
        entries = [candidates.Entry.of(t, self.study.trials) for t in chosen]
        self._tune_all(
            "rerank", "reranked", entries, candidates.rerank_steps(self.job.train_steps), candidates.RERANK_SEEDS
        )

    def _finalists(self) -> None:
        """The full fine-tune, of the uniform r_max too, then of the uniform rank at the verdict's cost; the test split
        is read here, once for each, after its selection.
        """
        chosen = candidates.to_finish(self.study.trials, self.strata, self.job.objectives, self.job.config.finalists)
        if not chosen:
            return
        entries = [candidates.Entry.of(t, self.study.trials) for t in chosen]
        fits = [r for r in sorted(self.job.space.ranks, reverse=True) if self._uniform([], r)]
        if fits and not any(e.get("event") == "uniform" for e in self.log.events):
            self.log.event({"event": "uniform", "rank": fits[0]})
        self._finish("finalists", entries + (self._uniform(entries, fits[0]) if fits else []))
        choice = self._verdict_choice()
        if choice is not None:
            self._finish("reference", self._uniform([], choice))

    def _finish(self, phase: str, entries: list[candidates.Entry]) -> None:
        self._tune_all(phase, "final", entries, self.job.train_steps, self.job.config.final_seeds)

    def _uniform(self, entries: list[candidates.Entry], rank: int) -> list[candidates.Entry]:
        derivation = candidates.uniform(self.job.space, self.job.net.shapes, rank)
        known = {e.text for e in entries}
        if derivation is None or derivation.text in known or not self.job.space.meets(derivation):
            return []
        return [candidates.Entry(derivation.text)]

    def _verdict_choice(self) -> int | None:
        """The uniform rank that stands beside the verdict's choice: the largest of no higher cost, or the smallest."""
        found = compared(open_run(self.path))
        choice = within_share(found, read_share("--within", self.job.config.within))
        if choice is None or choice.uniform:
            return None
        ranks = [r for r in sorted(self.job.space.ranks) if self._uniform([], r)]
        costs = {r: sum(min(r, *shape) * sum(shape) for shape in self.job.net.shapes.values()) for r in ranks}
        return max((r for r in ranks if costs[r] <= choice.params), default=ranks[0])

    def _tune_all(self, phase: str, stage: str, chosen: list[candidates.Entry], steps: int, seeds: int) -> None:
        done = {t.text for t in self.study.trials if t.stage == stage}
        self.progress.phase(phase, total=len(chosen), unit="candidates")
        files = [self.path / f"{phase}-{k}.safetensors" for k in range(seeds)]
        together: dict[tuple[str, int], Tuned] = {}
        if self.job.trains_together and any(entry.text not in done for entry in chosen):
            together = self._together(stage, chosen, steps, files)
        for place, entry in enumerate(chosen, 1):
            if entry.text not in done:
                self._tune(stage, entry, steps, seeds, together)
            self._show(place)
        for file in files:
            file.unlink(missing_ok=True)

    def _start(self, entry: candidates.Entry) -> Elastic:
        """A candidate's net with the weights that it inherits."""
        ranks = self.job.ranks(self.job.space.parse(entry.text))
        if entry.root is None:
            traces = self.job.policy.traces
            return densest(self.job, self.path / "traced", ranks) if traces else self.job.net.sliced(ranks)
        return net_of(self.job, candidates.weights_of(self.path, entry.root), ranks)

    def _together(
        self, stage: str, chosen: list[candidates.Entry], steps: int, files: list[Path]
    ) -> dict[tuple[str, int], Tuned]:
        """Every candidate that has something to train, on every seed: {(sentence, seed's number): what came of it}.

        Those in the log already are trained again with the others, so that bits do not depend on an interruption.
        """
        assert self.job.config.lr is not None
        nets = {e.text: net for e in chosen if (net := self._start(e)).names}
        found: dict[tuple[str, int], Tuned] = {}
        for k, file in enumerate(files if nets else []):
            plan = TrainPlan(steps, self.job.config.lr, seed=self._seed(stage, k))
            each = tune_together(self.job, list(nets.values()), plan, file, f"{stage} {k}", self._tick(True))
            found |= {(text, k): tuned for text, tuned in zip(nets, each, strict=True)}
        return found

    def _seed(self, stage: str, k: int) -> int:
        """Of the k-th training of a stage."""
        return self.job.config.seed + 1000 * (1 + k) + (500 if stage == "final" else 0)

    def _tune(
        self,
        stage: str,
        entry: candidates.Entry,
        steps: int,
        seeds: int,
        together: Mapping[tuple[str, int], Tuned],
    ) -> None:
        """Trains one candidate on some seeds, where that was not done in one pass; its weights are on disk before its
        line is in the log.
        """
        derivation = self.job.space.parse(entry.text)
        ranks = self.job.ranks(derivation)
        trial, told, spent = self.study.next_id, list[dict[str, float]](), 0.0
        test: dict[str, float] | None = None
        rows: dict[str, list[np.ndarray]] = {"validation": [], "test": []}
        for k in range(seeds):
            net = self._start(entry)
            began = time.monotonic()
            if ranks:
                try:
                    if tuned := together.get((entry.text, k)):
                        load_tuned(net, tuned)
                        spent += tuned.seconds
                    else:
                        self._train(f"{stage} {derivation.key} {k}", net, steps, self._seed(stage, k))
                except NonFiniteLoss as error:
                    self.study.fail(
                        derivation, str(error), stage=stage, parent=entry.parent, seconds=time.monotonic() - began
                    )
                    self._checkpoint("").clear()
                    return
            told.append(self.job.score(net, "validation"))
            if k == 0:
                save_tensors(
                    candidates.weights_of(self.path, trial), adapter_tensors(net.items()), {"text": entry.text}
                )
                if stage == "final" and self.job.data.size("test"):
                    test = self.job.score(net, "test")
            if stage == "final":
                for split in rows:
                    if self.job.data.size(split):
                        rows[split].append(self.job.row_losses(net, split))
            spent += time.monotonic() - began
        values = {name: float(np.mean([t[name] for t in told])) for name in told[0]}
        extra: dict[str, object] = {"seeds": told} if seeds > 1 else {}
        if test is not None:
            extra["test"] = test
        if stage == "final":
            kept = {split: torch.from_numpy(np.stack(found)) for split, found in rows.items() if found}
            save_tensors(rows_of(self.path, trial), kept, {"text": entry.text})
        values |= self.job.pricer.price(ranks)
        self.study.tell(
            derivation,
            values,
            seconds=spent,
            stage=stage,
            parent=entry.parent,
            extra=extra,
            constraints=self.job.constraints,
        )
        self._checkpoint("").clear()

    # -- small parts ------------------------------------------------------------------------------------------------

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
        after: Callable[[int], bool] | None = None,
    ) -> float:
        """The supernet where `policy`, else quietly a candidate."""
        job = self.job

        def training(plan: TrainPlan, checkpoint: Checkpoint, tick: Tick) -> float:
            return train(
                net,
                job.batches(seed),
                job.loss,
                replace(plan, decay=after is None),
                policy=job.policy if policy else None,
                validation=job.validation_batches,
                after=after,
                checkpoint=checkpoint,
                tick=tick,
            )

        return self._trained(purpose, steps, seed, training, quiet=not policy)
