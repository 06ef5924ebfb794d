"""Trainings on workers that take too long, hang, or cannot read what they need: what is told of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import archrank as ar
from archrank import grammar
from archrank.search.architecture_job import prepare_architectures
from archrank.search.config import RunConfig
from archrank.search.dispatch import Search
from archrank.search.ray import training
from archrank.search.ray.cluster import ClusterError
from archrank.search.ray.hanging import lost_because, patience
from archrank.search.study import Study

pytest.importorskip("ray.tune")

SPACE = '//@ input = 1x8x8\nstart: "id" -> id | "lazy" -> lazy\n%ignore / /\n'
FLAGS: dict[str, Any] = {
    "data": "digits", "evaluate": "train", "trials": 2, "train_steps": 10, "finalists": 0, "strategy": "random",
}  # fmt: skip
OPS = """import time
import torch
import archrank as ar

@ar.op("lazy", shape=lambda s: s, params=lambda s: 0, flops=lambda s: 0)
class Lazy(torch.nn.Module):
    def __init__(self, shape):
        super().__init__()

    def forward(self, x):
        time.sleep(16 * self.training)
        return x
"""


@pytest.mark.ray
def test_a_training_that_takes_too_long_is_a_failed_trial(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two.lark").write_text(SPACE)
    (tmp_path / "my_ops.py").write_text(OPS)
    monkeypatch.chdir(tmp_path)  # Tune's workers are elsewhere, and still find the file
    flags: dict[str, Any] = {"trials": 2, "train_steps": 10, "finalists": 0, "strategy": "random", "data": "digits"}
    run = ar.run(
        "two.lark",
        ops=("my_ops.py",),
        evaluate="train",
        trial_timeout=12,
        ray=nodes.address,
        workers=2,
        out="r",
        **flags,
    )
    found = {t.text: t for t in run.trials}
    assert (found["id"].state, found["lazy"].state) == ("done", "failed")
    assert found["lazy"].reason == "still training after 12 s (--trial-timeout), at step 1 of 10"
    assert found["lazy"].seconds >= 12


@pytest.mark.parametrize(("turns", "code"), [(6, 0), (1, 1)])
def test_a_process_that_makes_no_step_is_ended(turns: int, code: int) -> None:
    program = f"""
import time
from archrank.search.ray.hanging import watched
with watched(1.0) as alive:
    for _ in range({turns}):
        alive()
        time.sleep(0.3 if {turns} > 1 else 60)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=40).returncode == code


def test_without_a_limit_nothing_hangs() -> None:
    assert patience(None) == float("inf")
    assert patience(5) == 65
    assert lost_because(None, 3) == "its training was lost 3 times: each time its process died"


class Host:
    """A run that goes on."""

    def remark(self, text: str) -> None: ...

    def pause(self) -> None: ...


@pytest.fixture
def feed(tmp_path: Path) -> training._Feed:
    """Tune's view of a search over two sentences."""
    inbox = training._Inbox(1)
    study = Study(grammar.loads('start: NAME\nNAME: "a" | "b"\n'), ["loss"], strategy="random")
    search = Search(study, inbox, lambda d: ((d.text, study.id_of(d)), {}, None, ()), (), 2)
    return training._Feed(search, inbox, tmp_path, training._Until(Host()), 5.0)


def test_a_training_that_is_lost_each_time_says_how(feed: training._Feed) -> None:
    feed.suggest("t")
    feed.on_trial_complete("t", error=True)
    (trial,) = feed._search.study.trials
    assert (trial.state, trial.reason) == (
        "failed",
        "its training was lost 3 times: each time its process died, or made no step for 65 s (--trial-timeout); "
        "RUN/tune holds error.txt of the trial",
    )


def test_a_worker_that_cannot_read_ends_the_run(
    feed: training._Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare_architectures(RunConfig(space="nasbench201", data="digits", evaluate="train", train_steps=10))
    job = replace(job, config=replace(job.config, ops=("/nowhere/my_ops.py",)))
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(training.tune, "report", reported.append)
    monkeypatch.setattr(training.socket, "gethostname", lambda: "gpu-7")
    config = feed.suggest("t")
    assert isinstance(config, dict)
    training._train(config, job)
    feed.on_trial_complete("t", reported[-1])
    assert json.loads(reported[-1]["told"]).keys() == {"unreadable"}
    assert isinstance(feed._until.reason, ClusterError)
    assert str(feed._until.reason) == (
        "the worker on gpu-7 cannot read what it trains on: /nowhere/my_ops.py:1:1: no such file; --ops takes a "
        "Python file that registers ops with ar.op; every node needs the data, and the files of --ops, at the same "
        "path as here"
    )
    assert not feed._search.study.trials  # nothing is blamed on the candidate
