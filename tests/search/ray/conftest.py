"""One Ray cluster of three nodes for the tests of this folder: a head without CPUs, and two of two CPUs each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("ray")


@pytest.fixture(scope="session")
def nodes() -> Iterator[Any]:
    """The cluster; nobody is connected to it."""
    before = {k: os.environ.get(k) for k in ("RAY_USAGE_STATS_ENABLED", "RAY_health_check_period_ms")}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    memory = 100 * 2**20
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": memory},
    )
    for _ in range(2):
        cluster.add_node(num_cpus=2, object_store_memory=memory)
    yield cluster
    cluster.shutdown()
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
