"""Where a run computes: in this process, or on a cluster. Ray is not imported for the former."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from archrank.search.config import PROPOSED, RunConfig

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

__all__ = ["address_of", "cluster_of", "elsewhere"]

_ONLY_THERE = ("ray", "workers", "worker_gpus", "asynchronous")


def elsewhere(values: Mapping[str, object], ray: str | None, workers: int | None) -> dict[str, object]:
    """The keys of config.toml with another cluster in place of the run's, or with none (`ray` = none)."""
    found = dict(values)
    if ray == "none":
        proposed = found.get("propose", PROPOSED if "ray" in found else 1)
        return {**{k: v for k, v in found.items() if k not in _ONLY_THERE}, "propose": proposed}
    return found | ({"ray": ray} if ray else {}) | ({"workers": workers} if workers else {})


def address_of(config: RunConfig) -> str | None:
    """The cluster's address, asked for an answer before anything slow; None where a cluster is to be started, or none
    is wanted.
    """
    if config.ray is None:
        return None
    from archrank.search.ray.cluster import check_address

    return check_address(config.ray)


@contextmanager
def cluster_of(config: RunConfig, address: str | None) -> Iterator[Cluster | None]:
    """The cluster that `--ray` names while the block lasts."""
    if config.ray is None:
        yield None
        return
    from archrank.search.ray.cluster import joined, workers_that_fit

    with joined(config.ray, address) as cluster:
        workers_that_fit(cluster, config.workers, config.worker_cpus, config.gpus_of_a_worker)
        yield cluster
