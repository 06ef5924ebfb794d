"""The phases of a run: head, supernet, search, re-rank, finalists. Each reads what is done from the run's folder and
does the rest.

A run is a fold: every phase is a function of the log and the files before it, so `resume` is `start` over a folder
that already holds something.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from archrank import grammar
from archrank.grammar import ops
from archrank.search import candidates, summary
from archrank.search.architecture_job import ArchitectureJob, prepare_architectures
from archrank.search.architecture_run import ArchitecturePhases
from archrank.search.config import ConfigError, RunConfig, read_toml, write_toml
from archrank.search.dispatch import Evaluator, Here, Search
from archrank.search.errors import RunError
from archrank.search.expression import Constraint
from archrank.search.job import SUPERNET_RUNS, Job, new_parameters, prepare
from archrank.search.pareto import Scale
from archrank.search.phases import Shell
from archrank.search.place import address_of, cluster_of, elsewhere
from archrank.search.results import Run, open_run
from archrank.search.storage import RunLock, write_atomic
from archrank.search.strata import Strata
from archrank.search.study import Study
from archrank.search.supernet_training import launch
from archrank.search.tuning import Tuned, load_tuned, tune_together
from archrank.supernet.checkpoint import Checkpoint, adapter_tensors, load_adapters, load_tensors, save_tensors
from archrank.supernet.net import Elastic
from archrank.supernet.training import NonFiniteLoss, TrainPlan, train

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

__all__ = ["resume", "start"]

HEAD_STEPS = 300


def start(config: RunConfig) -> Run:
    """Runs `config` in a new folder; ConfigError when the folder holds a run already."""
    path = Path(config.out) if config.out else _free_folder(Path("runs"))
    if (path / "config.toml").exists() or (path / "trials.jsonl").exists():
        raise ConfigError(
            f"--out {path}: holds a run already; go on with `search resume {path}` or choose another folder"
        )
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out {path}: is a file; choose a folder")
    address = address_of(config)
    job = prepared(config)
    with cluster_of(config, address) as cluster:
        return _run(job, path, cluster)


def _run(job: Job | ArchitectureJob, path: Path, cluster: Cluster | None) -> Run:
    path.mkdir(parents=True, exist_ok=True)
    with RunLock(path):
        # the copy first: a folder with a config.toml can be resumed, whatever happens next
        write_atomic(path / "space.lark", job.space.text.encode())
        write_atomic(path / "config.toml", write_toml(replace(job.config, out=None)).encode())
        return _begun(job, path, cluster).all()


def prepared(config: RunConfig) -> Job | ArchitectureJob:
    """Everything loaded and checked, for the kind of space that is asked for."""
    for file in config.ops:
        ops.load_file(file)
    if grammar.load(config.space).is_architecture_space:
        return prepare_architectures(config)
    return prepare(config)


def _begun(job: Job | ArchitectureJob, path: Path, cluster: Cluster | None) -> Shell:
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
            if done.finished:
                return done
        address = address_of(config)
        job = prepared(config)
        with cluster_of(config, address) as cluster:
            return _begun(job, folder, cluster).all()


def _free_folder(root: Path) -> Path:
    taken = {int(p.name) for p in root.glob("*") if p.name.isdigit()} if root.is_dir() else set()
    return root / str(max(taken, default=0) + 1)


class _Phases(Shell):
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
        """Head, supernet, search, re-rank, finalists."""
        self._head()
        self._supernet()
        self._reference()
        self._search()
        self._rerank()
        self._finalists()

    # -- phases -----------------------------------------------------------------------------------------------------

    def _head(self) -> None:
        """What the checkpoint lacks is trained once on the bare base, and frozen for every method and candidate."""
        parameters = new_parameters(self.job.base)
        if not parameters:
            return
        file = self.path / "head.safetensors"
        if not file.exists():
            steps = min(HEAD_STEPS, self.job.train_steps)
            self._train("head", Elastic(self.job.base.model, {}), steps, self.job.config.seed, parameters=parameters)
            save_tensors(file, {f"p{i}": p for i, p in enumerate(parameters)}, {})
        tensors, _ = load_tensors(file)
        for i, p in enumerate(parameters):
            p.data.copy_(tensors[f"p{i}"])

    def _supernet(self) -> None:
        file = self.path / "supernet.safetensors"
        net = self.job.net
        if not file.exists():
            if (processes := self.job.config.processes) > 1:
                began = time.monotonic()
                launch(self.path, processes, self._pause)
                seconds = time.monotonic() - began
            else:
                seconds = self._train(
                    "supernet", net, SUPERNET_RUNS * self.job.train_steps, self.job.config.seed, policy=True
                )
                save_tensors(file, adapter_tensors(net.items()), {"r_max": net.r_max})
            self.log.event({"event": "phase", "name": "supernet", "seconds": round(seconds, 3)})
            self._checkpoint("supernet").clear()
        load_adapters(net.items(), load_tensors(file)[0])
        net.eval()

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
        """Inherited values of `trials` candidates, budget strata in turn."""
        config, done = self.job.config, self._count("inherited")
        self.progress.phase("search", total=config.trials, unit="trials")
        if done >= config.trials:
            return
        with self._evaluator() as evaluator:
            search = Search(
                self.study,
                evaluator,
                self._priced,
                self.job.constraints,
                config.trials,
                propose=config.batch,
                asynchronous=config.asynchronous,
                each=self._after,
                told=done,
            )
            if not search.run():
                self.progress.note(f"every candidate of the space is priced after {search.told} trials")

    def _after(self, told: int) -> None:
        self._show(told, total=self.job.config.trials)
        self._pause()

    def _priced(
        self, derivation: grammar.Derivation
    ) -> tuple[dict[str, int], dict[str, float], str | None, list[Constraint]]:
        ranks = self.job.ranks(derivation)
        cost = self.job.pricer.price(ranks)
        broken = [c for c in self.job.constraints if c.name in cost and not c.holds(cost)]
        return ranks, cost, f"does not meet {broken[0]}" if broken else self.job.pricer.too_large(cost), broken

    @contextmanager
    def _evaluator(self) -> Iterator[Evaluator]:
        """Here, or on workers of the cluster that hold what this process has trained."""
        job = self.job
        if self.cluster is None:
            yield Here(lambda ranks: job.score(job.net, "validation", ranks))
            return
        from archrank.search.ray.evaluation import evaluator_of

        rows = job.rows("validation", job.config.eval_rows)
        with evaluator_of(self.cluster, job.config, job.net, job.task.name, rows, self) as evaluator:
            yield evaluator

    def _rerank(self) -> None:
        """The best of each stratum, fine-tuned for a while from inherited weights on two seeds: this makes budgets
        comparable.
        """
        chosen = candidates.to_rerank(self.study.trials, self.strata, self.job.objectives, self.job.config.finalists)
        self._tune_all(
            "rerank", "reranked", chosen, candidates.rerank_steps(self.job.train_steps), candidates.RERANK_SEEDS
        )

    def _finalists(self) -> None:
        """The full fine-tune; the test split is read here, once for each finalist, after its selection."""
        chosen = candidates.to_finish(self.study.trials, self.strata, self.job.objectives, self.job.config.finalists)
        self._tune_all("finalists", "final", chosen, self.job.train_steps, 1)

    def _tune_all(self, phase: str, stage: str, chosen: list[candidates.Trial], steps: int, seeds: int) -> None:
        done = {t.parent for t in self.study.trials if t.stage == stage}
        self.progress.phase(phase, total=len(chosen), unit="candidates")
        files = [self.path / f"{phase}-{k}.safetensors" for k in range(seeds)]
        together: dict[tuple[int, int], Tuned] = {}
        if self.job.trains_together and any(parent.id not in done for parent in chosen):
            together = self._together(stage, chosen, steps, files)
        for place, parent in enumerate(chosen, 1):
            if parent.id not in done:
                self._tune(stage, parent, steps, seeds, together)
            self._show(place)
        for file in files:
            file.unlink(missing_ok=True)

    def _together(
        self, stage: str, chosen: list[candidates.Trial], steps: int, files: list[Path]
    ) -> dict[tuple[int, int], Tuned]:
        """Every candidate that has something to train, on every seed: {(id, seed's number): what came of it}.

        Those in the log already are trained again with the others, so that bits do not depend on an interruption.
        """
        assert self.job.config.lr is not None
        ranks = {parent.id: self.job.ranks(self.job.space.parse(parent.text)) for parent in chosen}
        members = [i for i, r in ranks.items() if r]
        found: dict[tuple[int, int], Tuned] = {}
        for k, file in enumerate(files if members else []):
            plan = TrainPlan(steps, self.job.config.lr, seed=self._seed(stage, k))
            each = tune_together(self.job, [ranks[i] for i in members], plan, file, f"{stage} {k}", self._tick(True))
            found |= {(i, k): tuned for i, tuned in zip(members, each, strict=True)}
        return found

    def _seed(self, stage: str, k: int) -> int:
        """Of the k-th training of a stage."""
        return self.job.config.seed + 1000 * (1 + k) + (500 if stage == "final" else 0)

    def _tune(
        self,
        stage: str,
        parent: candidates.Trial,
        steps: int,
        seeds: int,
        together: Mapping[tuple[int, int], Tuned],
    ) -> None:
        """Trains one candidate on some seeds, where that was not done in one pass; its weights are on disk before its
        line is in the log.
        """
        derivation = self.job.space.parse(parent.text)
        ranks = self.job.ranks(derivation)
        trial, told, spent = self.study.next_id, list[dict[str, float]](), 0.0
        test: dict[str, float] | None = None
        for k in range(seeds):
            net = self.job.net.sliced(ranks)
            began = time.monotonic()
            if ranks:
                try:
                    if tuned := together.get((parent.id, k)):
                        load_tuned(net, tuned)
                        spent += tuned.seconds
                    else:
                        self._train(f"{stage} {parent.id} {k}", net, steps, self._seed(stage, k), quiet=True)
                except NonFiniteLoss as error:
                    self.study.fail(
                        derivation, str(error), stage=stage, parent=parent.id, seconds=time.monotonic() - began
                    )
                    self._checkpoint("").clear()
                    return
            told.append(self.job.score(net, "validation"))
            if k == 0:
                save_tensors(
                    candidates.weights_of(self.path, trial), adapter_tensors(net.items()), {"text": parent.text}
                )
                if stage == "final" and self.job.data.size("test"):
                    test = self.job.score(net, "test")
            spent += time.monotonic() - began
        values = {name: float(np.mean([t[name] for t in told])) for name in told[0]}
        extra: dict[str, object] = {"seeds": told} if seeds > 1 else {}
        if test is not None:
            extra["test"] = test
        values |= self.job.pricer.price(ranks)
        self.study.tell(
            derivation,
            values,
            seconds=spent,
            stage=stage,
            parent=parent.id,
            extra=extra,
            constraints=self.job.constraints,
        )
        self._checkpoint("").clear()

    # -- small parts ------------------------------------------------------------------------------------------------

    def _values(self, ranks: Mapping[str, int]) -> dict[str, float]:
        return {**self.job.score(self.job.net, "validation", ranks), **self.job.pricer.price(ranks)}

    def _checkpoint(self, purpose: str) -> Checkpoint:
        return Checkpoint(self.path / "checkpoint.safetensors", purpose, 60 * self.job.config.save_minutes)

    def _train(
        self,
        purpose: str,
        net: Elastic,
        steps: int,
        seed: int,
        *,
        policy: bool = False,
        parameters: list[nn.Parameter] | None = None,
        quiet: bool = False,
    ) -> float:
        config = self.job.config
        assert config.lr is not None
        if not quiet:
            self.progress.phase(purpose, total=steps, unit="steps")
        plan = TrainPlan(steps, config.lr, seed=seed, accumulate=config.accumulate)
        try:
            return train(
                net,
                self.job.batches(seed),
                self.job.loss,
                plan,
                policy=self.job.policy if policy else None,
                parameters=parameters,
                checkpoint=self._checkpoint(purpose),
                tick=self._tick(quiet),
            )
        except NonFiniteLoss as error:
            if quiet:
                raise
            raise RunError(f"{purpose}: {error}") from None
