"""What a search on workers survives, and that it finds the same for any number of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from archrank import grammar
from archrank.search.config import RunConfig
from archrank.search.dispatch import Here, Search
from archrank.search.errors import RunError
from archrank.search.storage import Log, read_log
from archrank.search.study import Study
from archrank.supernet import elastic

ray = pytest.importorskip("ray")

from archrank.search.ray import evaluation  # noqa: E402
from archrank.search.ray import pool as pool_module  # noqa: E402
from archrank.search.ray.cluster import Cluster, ClusterError, joined  # noqa: E402
from archrank.search.ray.evaluation import OnWorkers, evaluator_of, pool_of  # noqa: E402
from archrank.search.ray.pool import TRIES, Pool, check_versions  # noqa: E402
from archrank.search.ray.worker import versions  # noqa: E402

pytestmark = pytest.mark.ray

SPACE = "start: site site site\nsite: RANK\nRANK: " + " | ".join(f'"{i}"' for i in range(10)) + "\n%ignore / /\n"
TRIALS = 64
Told = list[tuple[int, str, str, dict[str, float]]]


@pytest.fixture(scope="module")
def cluster(nodes: Any) -> Iterator[Cluster]:
    """Connected; functions of this file travel with their code, since workers cannot import it."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with joined("test", nodes.address) as found:
            yield found
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def value(text: str) -> dict[str, float]:
    a, b, c = (int(digit) for digit in text.split())
    return {"error": 1 / (1 + a + 2 * b + c * (9 - a)), "weights": float(a + b + c)}


def study(log: Log | None = None) -> Study:
    return Study(grammar.loads(SPACE), ["error:min", "weights:min"], seed=3, log=log)


def search(of: Study, evaluator: Any, told: int = 0, **more: Any) -> Told:
    def price(d: grammar.Derivation) -> Any:
        large = d.text.startswith("9 9")
        return d.text, {"weights": value(d.text)["weights"]}, "too large" if large else None, ()

    Search(of, evaluator, price, (), TRIALS, propose=8, told=told, **more).run()
    return [(t.id, t.text, t.state, dict(t.values)) for t in of.trials]


@pytest.fixture(scope="module")
def here() -> Told:
    """The trials without a cluster, proposed as many at a time."""
    return search(study(), Here(value))


def make_plain() -> Callable[[str], dict[str, float]]:
    return value


def make_slow() -> Callable[[str], dict[str, float]]:
    def slow(text: str) -> dict[str, float]:
        time.sleep(0.03)
        return value(text)

    return slow


def make_hazard(folder: str, accidents: dict[str, str]) -> Callable[[str], dict[str, float]]:
    """The first evaluations of some candidates meet with an accident."""

    def hazard(text: str) -> dict[str, float]:
        mark = Path(folder) / text.replace(" ", "")
        if text in accidents and not mark.exists():
            mark.touch()
            happen(accidents[text])
        return value(text)

    return hazard


def happen(kind: str) -> None:
    if kind == "memory":
        raise MemoryError("could not allocate 10 GiB")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does it
    time.sleep(1000)


def make_deadly() -> Callable[[str], str]:
    def deadly(text: str) -> str:
        if text == "7":
            os._exit(1)
        return text

    return deadly


def make_unimportable() -> Callable[[str], str]:
    raise ModuleNotFoundError("No module named 'archrank'")


def unreadable(text: str) -> None:
    raise ZeroDivisionError(text)


def make_broken() -> Callable[[str], None]:
    return unreadable


def on(size: int, make: Any = make_plain, parts: tuple[Any, ...] = (), **more: Any) -> Pool:
    return Pool(make, parts, size, **more)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_any_number_of_workers_finds_the_trials_of_one_process(cluster: Cluster, here: Told, size: int) -> None:
    with on(size) as pool:
        assert search(study(), OnWorkers(pool)) == here


def test_accidents_cost_no_trial(cluster: Cluster, here: Told, tmp_path: Path) -> None:
    evaluated = [text for _, text, state, _ in here if state == "done"]
    accidents = {evaluated[9]: "memory", evaluated[20]: "kill", evaluated[33]: "hang"}
    notes: list[str] = []
    with on(3, make_hazard, (str(tmp_path), accidents), cpus=0.5, limit=1.5, note=notes.append) as pool:
        assert search(study(), OnWorkers(pool)) == here
    assert len(list(tmp_path.iterdir())) == 3
    assert len(notes) == 2
    assert all("was lost" in note for note in notes)
    assert "no answer within 2 s" in notes[1]


def test_what_kills_every_worker_fails_alone(cluster: Cluster) -> None:
    with on(2, make_deadly, cpus=0.5) as pool:
        for text in map(str, range(12)):
            pool.submit(text, text)
        outcomes = {}
        while pool.pending:
            outcomes |= {o.key: o.answer for o in pool.collect()}
    failed = {key: answer.reason for key, answer in outcomes.items() if answer.reason}
    assert list(failed) == ["7"]
    assert f"{TRIES} workers were lost to it" in str(failed["7"])
    assert [outcomes[str(i)].value for i in range(12) if i != 7] == [str(i) for i in range(12) if i != 7]


def test_a_node_killed_in_the_middle(nodes: Any, cluster: Cluster, here: Told) -> None:
    more = nodes.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    nodes.wait_for_nodes()
    killed = threading.Event()
    of = study()

    def kill(told: int) -> None:
        if told >= 16 and not killed.is_set():
            killed.set()
            nodes.remove_node(more, allow_graceful=False)

    notes: list[str] = []
    with on(6, make_slow, note=notes.append) as pool:
        wait_until_ready(pool)
        found = search(of, OnWorkers(pool), each=kill)
        assert pool.lost >= 1
    assert found == here
    assert notes


def wait_until_ready(pool: Pool) -> None:
    """Every worker is up, those of the node that will go too."""
    end = time.monotonic() + 60
    while not all(w.ready for w in pool._workers) and time.monotonic() < end:
        pool.submit("0 0 1", "0 0 1")
        while pool.pending:
            pool.collect()


DRIVER = """
import sys, types
sys.path.insert(0, {folder!r})
import test_pool as here
from archrank.search.ray.cluster import joined
from archrank.search.storage import Log
from pathlib import Path
with joined("test", {address!r}), Log.open(Path({log!r}), {{}}) as log:
    of = here.study(log)
    from ray import cloudpickle
    cloudpickle.register_pickle_by_value(here)
    with here.on(2, here.make_slow, cpus=0.5) as pool:
        here.search(of, here.OnWorkers(pool), told=len(of.trials))
"""


def test_a_driver_killed_and_resumed(nodes: Any, here: Told, tmp_path: Path) -> None:
    log = tmp_path / "trials.jsonl"
    program = DRIVER.format(folder=str(Path(__file__).parent), address=nodes.address, log=str(log))
    first = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    for _ in range(6000):
        if (log.exists() and log.read_text().count('"text"') >= 19) or first.poll() is not None:
            break
        time.sleep(0.005)
    first.kill()
    first.wait()
    kept = log.read_text().count('"text"')
    assert 19 <= kept < TRIALS
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    assert [(t.id, t.text, t.state, dict(t.values)) for t in read_log(log).trials] == here


def test_asynchronous_order_stands_in_the_log(cluster: Cluster, tmp_path: Path) -> None:
    with Log.open(tmp_path / "log.jsonl", {}) as log, on(3, make_slow, cpus=0.5) as pool:
        found = search(study(log), OnWorkers(pool), asynchronous=True)
    assert len(found) == len({text for _, text, _, _ in found}) == TRIALS
    trials = read_log(tmp_path / "log.jsonl").trials
    again, told = study(), 0
    for after, group in groupby(sorted(trials, key=lambda t: t.id), lambda t: int(str(t.extra["asked_after"]))):
        for earlier in trials[told:after]:
            d = again.space.parse(earlier.text)
            if earlier.state == "infeasible":
                again.tell(d, earlier.values, infeasible="too large")
            else:
                again.tell(d, earlier.values)
        told, texts = after, [t.text for t in group]
        assert [d.text for d in again.ask(len(texts))] == texts


def test_an_error_of_ours_is_not_hidden(cluster: Cluster) -> None:
    with on(1, make_broken) as pool:
        pool.submit(0, "x")
        with pytest.raises(ZeroDivisionError, match="x"):
            pool.collect()


def test_a_worker_without_archrank(cluster: Cluster) -> None:
    with on(1, make_unimportable) as pool:
        pool.submit(0, "x")
        with pytest.raises(ClusterError) as told:
            pool.collect()
    assert str(told.value).startswith("a worker cannot start: ModuleNotFoundError")
    assert "No module named 'archrank'" in str(told.value)
    assert "install the same archrank, with its requirements, on every node" in str(told.value)


@pytest.fixture
def tiny_net(tiny: Callable[[str], Any]) -> Any:
    return elastic(tiny("bert"), "lora_ranks", r_max=2)


def test_a_base_that_does_not_fit_into_the_object_store(
    cluster: Cluster, tiny_net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(value: Any) -> Any:
        raise ray.exceptions.ObjectStoreFullError

    monkeypatch.setattr(evaluation.ray, "put", full)
    config = RunConfig(ray="auto", workers=1)
    with pytest.raises(ClusterError) as told, evaluator_of(cluster, config, tiny_net, "x", [], Host()):
        pass
    assert str(told.value) == (
        "the base's 0.0 GiB do not fit into the object store of this node: start it with a larger "
        "`ray start --object-store-memory`"
    )


class Host:
    """A run that goes on, and what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def remark(self, text: str) -> None:
        self.told.append(text)

    def pause(self) -> None: ...


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            {"propose": 1},
            [
                "2 workers and 1 candidates at a time: some workers wait; --propose 4 or --asynchronous would keep "
                "them busy"
            ],
        ),
        ({"propose": 2}, []),
        ({"propose": 1, "asynchronous": True}, []),
    ],
)
def test_a_batch_too_small_for_the_workers_is_remarked_on(
    cluster: Cluster, flags: dict[str, Any], told: list[str]
) -> None:
    host = Host()
    with pool_of(cluster, RunConfig(ray="auto", workers=2, **flags), make_plain, (), host):
        assert host.told == told


def make_false_start() -> Callable[[str], str]:
    raise OSError("no room left for the weights")


def test_workers_that_die_before_they_answer(cluster: Cluster) -> None:
    with on(1, make_false_start) as pool:
        pool.submit(0, "x")
        with pytest.raises(ClusterError) as told:
            pool.collect()
    assert str(told.value) == "a worker cannot start: OSError: no room left for the weights"


def test_no_worker_for_long(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "START_SECONDS", 0.2)
    with on(1, cpus=99) as pool:  # more than the cluster has
        pool.submit(0, "0 0 1")
        with pytest.raises(RunError) as told:
            pool.collect()
    assert str(told.value) == (
        "no worker has answered for 0 s: `ray status` shows what the cluster has and what is asked of it; every "
        "finished evaluation is kept"
    )


@pytest.mark.parametrize(
    ("report", "cause"),
    [
        (
            "Task was killed due to the node running low on memory.\nworkers killed by OOM",
            "out of memory: the node's memory monitor or the kernel ended it",
        ),
        ("ray::f()\n  File x\nValueError: 3 rows", "ValueError: 3 rows"),
        ("The actor died", "The actor died"),
        ("", "no reason given"),
    ],
)
def test_what_ray_reports_in_a_line(report: str, cause: str) -> None:
    assert pool_module._cause(report) == cause


def test_a_worker_of_other_versions() -> None:
    with pytest.raises(ClusterError) as told:
        check_versions({"node": "gpu-7", **versions(), "torch": "2.9.0"})
    assert str(told.value).startswith("the worker on gpu-7 runs torch 2.9.0 (here 2.")
    assert "install the same versions on every node" in str(told.value)
