"""Where a run computes: in this process, or on a cluster. Ray is not imported for the former."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from archrank.grammar import Space
from archrank.search.config import PROPOSED, ConfigError, RunConfig
from archrank.supernet import policies

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

__all__ = ["address_of", "check_place", "cluster_of", "elsewhere"]

_ONLY_THERE = ("ray", "workers", "worker_gpus", "asynchronous")


def elsewhere(values: Mapping[str, object], ray: str | None, workers: int | None) -> dict[str, object]:
    """The keys of config.toml with another cluster in place of the run's, or with none (`ray` = none)."""
    found = dict(values)
    if ray == "none":
        proposed = found.get("propose", PROPOSED if "ray" in found else 1)
        return {**{k: v for k, v in found.items() if k not in _ONLY_THERE}, "propose": proposed}
    return found | ({"ray": ray} if ray else {}) | ({"workers": workers} if workers else {})


def check_place(config: RunConfig, space: Space) -> None:
    """ConfigError where a flag asks for workers or processes that this kind of run has no work for."""
    if config.ray is None and config.processes == 1 and config.propose is None:
        return
    if space.is_layer_space:
        kind = "an ensemble" if space.has_split else "an encoder"
        what = f"{kind} run ({space.name}) trains and scores its candidates"
    elif not space.is_architecture_space and config.policy and policies.load(config.policy).traces:
        what = f"--policy {config.policy} traces its front along one training, which stays"
    elif space.is_architecture_space and config.processes > 1:
        raise ConfigError(
            f"--processes {config.processes}: several processes train a rank supernet, and {space.name} is a space of "
            "architectures; leave it out (--ray with --evaluate train gives each candidate a worker)"
        )
    else:
        return
    given = next(flag for flag, on in _flags(config) if on)
    raise ConfigError(f"{given}: {what} in this process in this version; leave {given.split()[0]} out")


def _flags(config: RunConfig) -> list[tuple[str, bool]]:
    return [
        (f"--ray {config.ray}", config.ray is not None),
        (f"--processes {config.processes}", config.processes > 1),
        (f"--propose {config.propose}", config.propose is not None),
    ]


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
