"""Trainings from nothing of an architecture run in batches, on workers of a cluster or in this process: each is a
function of (job, sentence, seed), so they are the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from archrank.grammar import Derivation
from archrank.search.architecture_job import FINAL_SEEDS, ArchitectureJob
from archrank.search.architecture_training import Finished, TrialTimeout, rungs_of, trained
from archrank.search.dispatch import Done, Evaluator, Here, Search
from archrank.search.expression import Constraint
from archrank.search.study import Study
from archrank.search.trial import Trial
from archrank.supernet.training import NonFiniteLoss

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

__all__ = ["finishers", "in_order", "train_in_batches", "trainers"]

FAILURES = (NonFiniteLoss, TrialTimeout)


class Host(Protocol):
    """The run: it is told what happens, and says when to stop."""

    cluster: Cluster | None
    path: Path

    def remark(self, text: str) -> None:
        """A line for the user."""

    def pause(self) -> None:
        """The safe point."""

    def after(self, told: int) -> None:
        """Hears of each trial."""


def train_in_batches(
    job: ArchitectureJob,
    study: Study,
    host: Host,
    refused: Callable[[Mapping[str, float]], tuple[str | None, Sequence[Constraint]]],
    told: int,
) -> None:
    """Tells the study values of `--trials` candidates after the first rung's steps, `told` being there already."""
    config, steps = job.config, rungs_of(job)[0]
    if told >= config.trials:
        return

    def price(d: Derivation) -> tuple[tuple[str, int], dict[str, float], str | None, Sequence[Constraint]]:
        """(sentence, number), costs, and where they do not meet the constraints the reason not to train it."""
        architecture = job.architecture(d)
        cost = job.price(architecture)
        return (d.text, study.id_of(d)), cost, refused(cost)[0] or job.too_large(architecture), job.constraints

    def train(item: tuple[str, int]) -> dict[str, float]:
        return trained(job, *item, steps, lambda done, loss: host.pause())

    search = Search(
        study,
        Here(train, failures=FAILURES),
        price,
        job.constraints,
        config.trials,
        propose=config.batch,
        asynchronous=config.asynchronous,
        each=host.after,
        told=told,
    )
    if host.cluster is None:
        search.run()
    else:
        from archrank.search.ray.training import train_on_tune

        train_on_tune(job, search, host.cluster, host.path / "tune", host)
    if search.exhausted:
        host.remark(f"every candidate of the space is priced after {search.told} trials")


@contextmanager
def trainers(job: ArchitectureJob, host: Host) -> Iterator[Evaluator]:
    """Trains (sentence, number, steps) from nothing, here or on workers."""
    if host.cluster is None:

        def train(item: tuple[str, int, int]) -> dict[str, float]:
            return trained(job, *item, lambda done, loss: host.pause())

        yield Here(train, FAILURES)
        return
    from archrank.search.ray.training import trainer_of

    with trainer_of(host.cluster, job, host) as evaluator:
        yield evaluator


def in_order(chosen: Sequence[Trial], evaluator: Evaluator) -> Iterator[tuple[Trial, Done]]:
    """What comes of trainings submitted under the trials' ids, in the order of the trials."""
    told: dict[Hashable, Done] = {}
    for trial in chosen:
        while trial.id not in told:
            told.update((done.key, done) for done in evaluator.collect())
        yield trial, told.pop(trial.id)


@contextmanager
def finishers(
    job: ArchitectureJob, host: Host, parents: Sequence[Trial]
) -> Iterator[Callable[[Trial], list[Finished]]]:
    """Trains every finalist on every seed on workers; the function that is given waits for those of one."""
    from archrank.search.ray.training import finisher_of

    assert host.cluster is not None
    with finisher_of(host.cluster, job, host) as evaluator:
        for parent in parents:
            for k in range(FINAL_SEEDS):
                evaluator.submit((parent.id, k), (parent.text, k))
        told: dict[Hashable, Done] = {}

        def outcomes(parent: Trial) -> list[Finished]:
            keys = [(parent.id, k) for k in range(FINAL_SEEDS)]
            while any(key not in told for key in keys):
                told.update((done.key, done) for done in evaluator.collect())
            return [_finished(told.pop(key)) for key in keys]

        yield outcomes


def _finished(done: Done) -> Finished:
    if done.reason:
        return Finished({}, {}, {}, done.seconds, done.reason)
    found: Finished = done.values
    return found
