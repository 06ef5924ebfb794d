"""The search phase of a rank run in batches, on workers of a cluster or in this process: the same trials either way.

Each candidate reads all rows in one order (search/scoring.py): a race (search/racing.py) would have its end depend on
which candidates are known, so on how many workers there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from archrank.grammar import Derivation
from archrank.search.dispatch import Evaluator, Here, Search
from archrank.search.expression import Constraint
from archrank.search.job import Job
from archrank.search.scoring import score
from archrank.search.study import Study

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

__all__ = ["Host", "search_in_batches"]


class Host(Protocol):
    """The run: it is told what happens, and says when to stop."""

    cluster: Cluster | None

    def remark(self, text: str) -> None:
        """A line for the user."""

    def pause(self) -> None:
        """The safe point."""


def search_in_batches(
    job: Job,
    study: Study,
    host: Host,
    refused: Callable[[Mapping[str, float]], tuple[str | None, Sequence[Constraint]]],
    each: Callable[[int], None],
    told: int,
) -> None:
    """Tells the study inherited values until it has `--trials` of them, `told` being there already.

    refused: costs -> why such a candidate is not evaluated and what it breaks; each: is told the number of trials.
    """
    config = job.config
    if told >= config.trials:
        return

    def price(d: Derivation) -> tuple[dict[str, int], dict[str, float], str | None, Sequence[Constraint]]:
        ranks = job.ranks(d)
        cost = job.pricer.price(ranks)
        reason, broken = refused(cost)
        return ranks, cost, reason or job.pricer.too_large(cost), broken

    with _evaluator(job, host) as evaluator:
        search = Search(
            study,
            evaluator,
            price,
            job.constraints,
            config.trials,
            propose=config.batch,
            asynchronous=config.asynchronous,
            each=each,
            told=told,
        )
        if not search.run():
            host.remark(f"every candidate of the space is priced after {search.told} trials")


@contextmanager
def _evaluator(job: Job, host: Host) -> Iterator[Evaluator]:
    """Here, or on workers of the cluster that hold what this process has trained."""
    config = job.config
    rows = job.rows("validation", config.eval_rows)
    if host.cluster is None:
        dtype = config.evaluate_dtype or "fp32"
        yield Here(lambda ranks: score(job.net, job.task, rows, ranks, dtype))
        return
    from archrank.search.ray.evaluation import evaluator_of

    with evaluator_of(host.cluster, config, job.net, job.task.name, rows, host) as evaluator:
        yield evaluator
