"""Inherited values of a rank supernet, computed by workers that hold the base and the shared weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import ray
import torch
from torch import Tensor

from archrank.search.config import RunConfig
from archrank.search.dispatch import Done
from archrank.search.ray.cluster import Cluster, ClusterError, workers_that_fit
from archrank.search.ray.parcel import Weights, arrays_of, skeleton_of, tensors_of, with_weights
from archrank.search.ray.pool import AHEAD, Pool
from archrank.search.scoring import score
from archrank.supernet import tasks
from archrank.supernet.net import Elastic

__all__ = ["OnWorkers", "evaluator_of", "make_scorer", "parts", "pool_of"]

Ranks = Mapping[str, int]


def parts(
    net: Elastic, task: str, rows: Sequence[Mapping[str, Tensor]], *, threads: int, device: str, dtype: str = "fp32"
) -> tuple[Any, ...]:
    """What `make_scorer` needs, the heavy ones in the object store: put once, for any number of workers."""
    batches = [dict(zip(batch, arrays_of(list(batch.values())), strict=True)) for batch in rows]
    weights = arrays_of([*net.parameters(), *net.buffers()])
    return (ray.put(skeleton_of(net)), ray.put(weights), ray.put(batches), task, threads, device, dtype)


def make_scorer(
    skeleton: Elastic,
    weights: Weights,
    batches: Sequence[Mapping[str, tuple[str, Any]]],
    task: str,
    threads: int,
    device: str,
    dtype: str,
) -> Callable[[Ranks], dict[str, float]]:
    """On a worker: {module: rank} -> mean loss and accuracy on the batches."""
    torch.set_num_threads(threads)
    net, kind = with_weights(skeleton, weights, device), tasks.load(task)
    rows = [dict(zip(batch, tensors_of(list(batch.values())), strict=True)) for batch in batches]
    return lambda ranks: score(net, kind, rows, ranks, dtype)


class Host(Protocol):
    """The run: it is told what happens, and says when to stop."""

    def remark(self, text: str) -> None:
        """A line for the user."""

    def pause(self) -> None:
        """The safe point, asked about twice a second."""


class OnWorkers:
    """A pool as the search's evaluator."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.room = AHEAD * pool.size

    @property
    def pending(self) -> int:
        """Submitted and not collected."""
        return self.pool.pending

    def submit(self, key: Hashable, item: Any) -> None:
        """Asks the workers."""
        self.pool.submit(key, item)

    def collect(self) -> list[Done]:
        """The next answers."""
        return [Done(o.key, o.answer.value, o.answer.seconds, o.answer.reason) for o in self.pool.collect()]


def pool_of(
    cluster: Cluster,
    config: RunConfig,
    make: Callable[..., Callable[[Any], Any]],
    parts: Sequence[Any],
    host: Host,
    limit: float | None = None,
) -> Pool:
    """Workers as `config` wants them; limit: seconds that an item may take."""
    gpus = config.gpus_of_a_worker
    size = workers_that_fit(cluster, config.workers, config.worker_cpus, gpus)
    if not config.asynchronous and size > config.batch:
        host.remark(
            f"{size} workers and {config.batch} candidates at a time: some workers wait; --propose {2 * size} or "
            "--asynchronous would keep them busy"
        )
    return Pool(make, parts, size, cpus=config.worker_cpus, gpus=gpus, limit=limit, note=host.remark, idle=host.pause)


@contextmanager
def evaluator_of(
    cluster: Cluster, config: RunConfig, net: Elastic, task: str, rows: Sequence[Mapping[str, Tensor]], host: Host
) -> Iterator[OnWorkers]:
    """Workers that hold this net and these rows while the block lasts."""
    device = "cuda" if config.gpus_of_a_worker else "cpu"
    threads = min(config.threads or 1, max(1, int(config.worker_cpus)))
    try:
        dtype = config.evaluate_dtype or "fp32"
        given = parts(net, task, rows, threads=threads, device=device, dtype=dtype)
    except ray.exceptions.ObjectStoreFullError:
        size = sum(t.numel() * t.element_size() for t in [*net.parameters(), *net.buffers()])
        raise ClusterError(
            f"the base's {size / 2**30:.1f} GiB do not fit into the object store of this node: start it with a larger "
            "`ray start --object-store-memory`"
        ) from None
    with pool_of(cluster, config, make_scorer, given, host, config.trial_timeout) as pool:
        yield OnWorkers(pool)
