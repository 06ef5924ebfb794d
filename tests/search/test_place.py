"""What is refused, by its text, where a run has no work for workers, processes or batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import archrank as ar
from archrank import grammar
from archrank.search import run as search_run
from archrank.search.config import ConfigError, RunConfig
from archrank.search.place import check_place, elsewhere
from archrank.search.ray.cluster import Cluster
from archrank.search.run import start

HERE = "in this process in this version; leave"


@pytest.mark.parametrize(
    ("space", "flags", "message"),
    [
        (
            "elastic_encoder",
            {"ray": "auto"},
            f"--ray auto: an encoder run (elastic_encoder) trains and scores its candidates {HERE} --ray out",
        ),
        (
            "elastic_encoder",
            {"propose": 4},
            f"--propose 4: an encoder run (elastic_encoder) trains and scores its candidates {HERE} --propose out",
        ),
        (
            "elastic_ensemble",
            {"ray": "auto"},
            f"--ray auto: an ensemble run (elastic_ensemble) trains and scores its candidates {HERE} --ray out",
        ),
        (
            "lora_ranks",
            {"ray": "auto", "policy": "diffora"},
            f"--ray auto: --policy diffora traces its front along one training, which stays {HERE} --ray out",
        ),
        (
            "lora_ranks",
            {"processes": 2, "policy": "autolora"},
            f"--processes 2: --policy autolora traces its front along one training, which stays {HERE} --processes out",
        ),
        (
            "nasbench201",
            {"processes": 2},
            "--processes 2: several processes train a rank supernet, and nasbench201 is a space of architectures; "
            "leave it out (--ray with --evaluate train gives each candidate a worker)",
        ),
    ],
)
def test_runs_without_work_for_others(tmp_path: Path, space: str, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as told:
        start(RunConfig(space=space, out=str(tmp_path / "r"), **flags))
    assert str(told.value) == message
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("flags", "flag"), [({"ray": "auto"}, "--ray"), ({"propose": 2}, "--propose")])
def test_a_race_needs_one_at_a_time(flags: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError) as told:
        RunConfig(race="on", **flags)
    assert str(told.value) == (
        "--race on: a candidate is stopped by those before it, so one is proposed at a time; leave out --race or "
        + flag
    )


@pytest.mark.parametrize("space", ["lora_ranks", "nasbench201"])
def test_runs_with_work_for_workers(space: str) -> None:
    check_place(RunConfig(space=space, ray="auto"), grammar.load(space))


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that is never asked for anything."""

    @contextmanager
    def cluster_of(config: RunConfig, address: str | None) -> Iterator[Cluster]:
        yield Cluster("10.0.0.1:6379", False, 2.0, 0.0)

    monkeypatch.setattr(search_run, "address_of", lambda config: None)
    monkeypatch.setattr(search_run, "cluster_of", cluster_of)


@pytest.mark.parametrize(
    ("space", "flags", "message"),
    [
        (
            "einspace",
            {},
            "each candidate starts from the weights that the one before left in the bank, so the search stays in this "
            "process; finalists are trained on the workers. --evaluate train trains all of them there",
        ),
        (
            "ensemble_cnn",
            {},
            "each candidate starts from the weights that the one before left in the bank, so the search stays in this "
            "process; finalists are trained on the workers. --evaluate train trains all of them there",
        ),
        (
            "ensemble_cnn",
            {"evaluate": "train", "reduction": 1},
            "a space of ensembles shrinks while it is searched, so the search stays in this process "
            "(--shrink-rounds 0: on the workers); finalists are trained on the workers",
        ),
    ],
)
def test_a_search_that_stays_here_says_so(
    tmp_path: Path,
    two_workers: None,
    capsys: pytest.CaptureFixture[str],
    space: str,
    flags: dict[str, Any],
    message: str,
) -> None:
    small = {"data": "digits", "trials": 1, "train_steps": 2, "finalists": 0, "strategy": "random", "seed": 1}
    start(RunConfig(space=space, ray="auto", out=str(tmp_path / "r"), **small, **flags))
    assert message in capsys.readouterr().err.splitlines()


def test_elsewhere() -> None:
    on_workers = {"ray": "auto", "workers": 4, "asynchronous": True, "seed": 3}
    assert elsewhere(on_workers, None, None) == on_workers
    assert elsewhere(on_workers, "none", None) == {"seed": 3, "propose": 16}
    assert elsewhere({"seed": 3}, "none", None) == {"seed": 3, "propose": 1}
    assert elsewhere({"seed": 3}, "10.0.0.1:6379", 2) == {"seed": 3, "ray": "10.0.0.1:6379", "workers": 2}


def test_a_batch_in_this_process_reads_every_row(tmp_path: Path) -> None:
    flags: dict[str, Any] = {"trials": 9, "train_steps": 10, "finalists": 0, "strategy": "random", "propose": 4}
    run = ar.run("lora_ranks", out=str(tmp_path / "r"), **flags)
    found = [t for t in run.trials if t.stage == "inherited"]
    assert [t.extra.get("asked_after") for t in found] == [None] * 4 + [4] * 4 + [8]  # first the starting points
    assert not any(t.raced for t in found)
