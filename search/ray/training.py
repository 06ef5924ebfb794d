"""Training trials on Ray Tune, for `--evaluate train`: each candidate's training is independent of the others.

The run's log is the truth: a trial is done when its line is there, and a resumed run hands out the rest. Tune keeps the
trials' checkpoints under RUN/tune; a training that was interrupted goes on from its latest one.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from archrank.grammar import SpaceError, ops
from archrank.search.architecture_job import ArchitectureJob
from archrank.search.architecture_training import TrialTimeout, finished, rungs_of, trained
from archrank.search.dispatch import Done, Search
from archrank.search.interrupt import Interrupted
from archrank.search.ray.cluster import Cluster, ClusterError, workers_that_fit
from archrank.search.ray.evaluation import Host, OnWorkers, pool_of
from archrank.search.ray.hanging import lost_because, patience, watched
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.data import DataError
from archrank.supernet.training import NonFiniteLoss

__all__ = ["finisher_of", "latest_checkpoint", "make_finisher", "make_trainer", "train_on_tune", "trainer_of"]

RETRIES = 2
"""Times that Tune starts a trial again, from its checkpoint, after its process was lost."""
STATE = "training.safetensors"
NOTE = "trial.json"


class _Inbox:
    """The search's evaluator as Tune sees it: Tune fetches, and never has to be waited for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.ready: deque[tuple[Hashable, Any]] = deque()

    @property
    def pending(self) -> int:
        return len(self.ready)

    def submit(self, key: Hashable, item: Any) -> None:
        self.ready.append((key, item))

    def collect(self) -> Sequence[Done]:
        return ()


class _Until(tune.Stopper):  # type: ignore[misc]
    """Ends the experiment at the run's safe point."""

    def __init__(self, host: Host) -> None:
        self._host: Host | None = host
        self.reason: BaseException | None = None

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.reason is None and self._host is not None:
            try:
                self._host.pause()
            except Interrupted as reason:  # raised again once Tune has stopped its trials
                self.reason = reason
        return self.reason is not None

    def __getstate__(self) -> dict[str, Any]:
        return {"_host": None, "reason": None}


class _Feed(tune.search.Searcher):  # type: ignore[misc]  # Ray has no types
    """Hands the search's candidates to Tune and its results back; order and log are the search's."""

    def __init__(self, search: Search, inbox: _Inbox, kept: Path, until: _Until, limit: float | None) -> None:
        super().__init__(metric=None, mode=None)
        self._search, self._inbox, self._kept, self._until, self._limit = search, inbox, kept, until, limit
        self._keys: dict[str, Hashable] = {}

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._until.reason is not None:
            return None
        going = self._inbox.ready or self._search.advance()
        if not self._inbox.ready:
            return None if going else str(self.FINISHED)
        key, (text, number) = self._inbox.ready.popleft()
        self._keys[trial_id] = key
        return {"text": text, "id": number, "from": str(latest_checkpoint(self._kept, number) or "")}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        key = self._keys.pop(trial_id)
        told = json.loads((result or {}).get("told") or "null")
        if told and "unreadable" in told:
            self._until.reason = ClusterError(told["unreadable"])
        elif self._until.reason is not None:
            return  # stopped, not failed
        elif error or told is None:
            reason = f"{lost_because(self._limit, RETRIES + 1)}; RUN/tune holds error.txt of the trial"
            self._search.take(Done(key, None, 0.0, reason))
        else:
            seconds = float((result or {}).get("time_total_s", 0.0))
            self._search.take(Done(key, told.get("values"), seconds, told.get("reason")))
        try:
            self._search.advance()
        except Interrupted as reason:
            self._until.reason = reason

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text("{}")  # the run's log holds everything

    def restore(self, checkpoint_path: str) -> None:
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune keeps a copy for Tuner.restore, which a run has no use for


def train_on_tune(
    job: ArchitectureJob, search: Search, cluster: Cluster, folder: Path, host: Host, scheduler: Any = None
) -> None:
    """Runs the search until it has its trials. scheduler: of Tune, None trains every candidate to the end."""
    config = job.config
    gpus = config.gpus_of_a_worker
    size = workers_that_fit(cluster, config.workers, config.worker_cpus, gpus)
    inbox = _Inbox(size)
    search.evaluator = inbox
    if not search.advance():
        return
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is the run's own
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    until = _Until(host)
    trainable = tune.with_parameters(_train, job=_there(job))
    trainable = tune.with_resources(trainable, {"cpu": config.worker_cpus, "gpu": gpus})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Feed(search, inbox, folder, until, config.trial_timeout),
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=size,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.config["id"]),
        ),
        run_config=tune.RunConfig(
            name=_next(folder),
            storage_path=str(folder.resolve()),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            stop=until,
            verbose=0,
        ),
    )
    tuner.fit()
    if until.reason is not None:
        raise until.reason


def _there(job: ArchitectureJob) -> ArchitectureJob:
    """The job as a worker sees it: Ray shows each worker its own GPU alone, and Tune starts it in another folder."""
    device = "cuda" if job.config.gpus_of_a_worker else "cpu"
    files = tuple(str(Path(file).resolve()) for file in job.config.ops)
    return replace(job, config=replace(job.config, device=device, ops=files))


def _next(folder: Path) -> str:
    """A new experiment for each session: Tune overwrites the state of one that it finds under the same name."""
    return str(len(list(folder.glob("*/"))) + 1) if folder.exists() else "1"


def latest_checkpoint(folder: Path, number: int) -> Path | None:
    """Where the training of trial `number` was kept last, in any session of the run."""
    notes = [*folder.glob(f"*/{number}/checkpoint_*/{NOTE}")]
    found = [(json.loads(note.read_text())["step"], note.parent / STATE) for note in notes]
    return max(found, default=(0, None))[1]


@dataclass(frozen=True)
class _Reported(Checkpoint):
    """A checkpoint that Tune takes to its storage."""

    number: int = 0

    def save(self, step: int, parameters: Any, optimizer: Any, seconds: float, extra: Any = None) -> None:
        super().save(step, parameters, optimizer, seconds, extra)
        (self.path.parent / NOTE).write_text(json.dumps({"id": self.number, "step": step}))
        tune.report({"step": step, "told": ""}, checkpoint=tune.Checkpoint.from_directory(str(self.path.parent)))

    def load(self, parameters: Any, optimizer: Any, extra: Any = None) -> tuple[int, float]:
        kept = tune.get_checkpoint()
        if kept is None:
            return super().load(parameters, optimizer, extra)
        with kept.as_directory() as folder:
            before = Checkpoint(Path(folder) / STATE, self.purpose, self.every_seconds)
            return before.load(parameters, optimizer, extra)


def _train(config: Mapping[str, Any], job: ArchitectureJob) -> None:
    """A trial on a worker: trains, keeps checkpoints, reports its values or why there are none."""
    number, steps = int(config["id"]), rungs_of(job)[0]
    with tempfile.TemporaryDirectory() as folder, watched(patience(job.config.trial_timeout)) as alive:
        checkpoint = _Reported(Path(folder) / STATE, f"trial {number}", 60 * job.config.save_minutes, number)
        if config["from"] and Path(config["from"]).exists():
            checkpoint.path.write_bytes(Path(config["from"]).read_bytes())
        told: dict[str, Any]
        try:
            _settle(job)
            told = {"values": trained(job, config["text"], number, steps, lambda step, loss: alive(), checkpoint)}
        except (NonFiniteLoss, TrialTimeout) as error:
            told = {"values": None, "reason": str(error)}
        except (OSError, DataError, SpaceError) as error:
            told = {
                "unreadable": f"the worker on {socket.gethostname()} cannot read what it trains on: {error}; every "
                "node needs the data, and the files of --ops, at the same path as here"
            }
        tune.report({"told": json.dumps(told)})


def _settle(job: ArchitectureJob) -> None:
    """A worker's process as the run's is: its threads, and the user's ops, whose classes do not travel."""
    torch.set_num_threads(max(1, int(job.config.worker_cpus)))
    for file in job.config.ops:
        ops.load_file(file)


def make_finisher(job: ArchitectureJob) -> Callable[[tuple[str, int]], Any]:
    """On a worker: (sentence, seed's number) -> what came of that training."""
    _settle(job)
    return lambda item: finished(job, *item)


def make_trainer(job: ArchitectureJob) -> Callable[[tuple[str, int, int]], tuple[dict[str, float] | None, str | None]]:
    """On a worker: (sentence, number, steps) -> (values, None), or (None, why there are none)."""
    _settle(job)

    def train(item: tuple[str, int, int]) -> tuple[dict[str, float] | None, str | None]:
        try:
            return trained(job, *item), None
        except (NonFiniteLoss, TrialTimeout) as error:
            return None, str(error)

    return train


class _Trainers(OnWorkers):
    """Unpacks what `make_trainer` answers."""

    def collect(self) -> list[Done]:
        return [self._unpacked(done) for done in super().collect()]

    def _unpacked(self, done: Done) -> Done:
        values, reason = done.values or (None, done.reason)
        return replace(done, values=values, reason=reason)


@contextmanager
def trainer_of(cluster: Cluster, job: ArchitectureJob, host: Host) -> Iterator[OnWorkers]:
    """Workers that train candidates from nothing while the block lasts."""
    limit = patience(job.config.trial_timeout)
    with pool_of(cluster, job.config, make_trainer, (ray.put(_there(job)),), host, limit) as pool:
        yield _Trainers(pool)


@contextmanager
def finisher_of(cluster: Cluster, job: ArchitectureJob, host: Host) -> Iterator[OnWorkers]:
    """Workers that train finalists while the block lasts."""
    limit = patience(job.config.trial_timeout)
    with pool_of(cluster, job.config, make_finisher, (ray.put(_there(job)),), host, limit) as pool:
        yield OnWorkers(pool)
