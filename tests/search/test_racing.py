"""The search stops reading rows for hopeless candidates: the same front and promotion, marked and left off fronts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import archrank as ar
from archrank import grammar
from archrank.search import candidates
from archrank.search.config import RunConfig
from archrank.search.job import Job
from archrank.search.objective import parse_objectives
from archrank.search.pareto import latest
from archrank.search.racing import Rivals
from archrank.search.rank_run import RankPhases
from archrank.search.results import Run
from archrank.search.run import prepared
from archrank.search.strata import Strata
from archrank.search.trial import Trial

PLAN = {"train_steps": 20, "trials": 40, "finalists": 1, "seed": 4, "strategy": "random"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """The same search, raced and not; a strategy that looks at no value proposes the same to both."""
    out = tmp_path_factory.mktemp("raced")
    return ar.run("lora_ranks", out=out / "1", **PLAN), ar.run("lora_ranks", out=out / "2", race="off", **PLAN)


def inherited(run: Run) -> list[Trial]:
    return [t for t in run.trials if t.stage == "inherited"]


def test_a_raced_search_has_the_front_and_promotes_as_one_that_reads_all(runs: tuple[Run, Run]) -> None:
    raced, whole = runs
    assert [t.text for t in inherited(raced)] == [t.text for t in inherited(whole)]
    assert not any(t.raced for t in whole.trials)
    stopped = [t for t in inherited(raced) if t.raced]
    assert len(stopped) >= 5
    assert [dict(t.values) for t in raced.front()] == [dict(t.values) for t in whole.front()]
    for stage in ("reranked", "final"):
        pairs = [[(t.text, dict(t.values)) for t in r.trials if t.stage == stage] for r in runs]
        assert pairs[0] == pairs[1]
    # those that saw every row have the same values to the bit
    by_text = {t.text: t for t in inherited(whole)}
    for t in inherited(raced):
        if not t.raced:
            assert dict(t.values) == dict(by_text[t.text].values)


def test_only_a_blind_strategy_is_raced_by_itself(tmp_path: Path) -> None:
    """Estimates would change what a strategy proposes that looks at values."""
    for strategy, race, raced in (("nsga2", "auto", False), ("nsga2", "on", True), ("random", "auto", True)):
        job = prepared(RunConfig(strategy=strategy, race=race, trials=8))
        (tmp_path / f"{strategy}-{race}").mkdir()
        assert isinstance(job, Job)
        assert (RankPhases(job, tmp_path / f"{strategy}-{race}")._rivals is not None) == raced


def test_what_the_log_says_of_a_stopped_candidate(runs: tuple[Run, Run]) -> None:
    raced, whole = runs
    truth = {t.text: t.values["loss"] for t in inherited(whole)}
    by_id = {t.id: t for t in raced.trials}
    lines = [json.loads(line) for line in (raced.path / "trials.jsonl").read_text().splitlines()]
    for line in (line for line in lines if "raced" in line):
        told, rival = line["raced"], by_id[line["raced"]["by"]]
        assert 0 < told["rows"] < told["of"] == 300
        assert line["state"] == "done"
        assert not rival.raced
        assert rival.values["adapter_params"] <= line["values"]["adapter_params"]
        assert truth[rival.text] < truth[line["text"]]
        assert line["values"]["loss"] > rival.values["loss"]
        assert 0 <= line["values"]["accuracy"] <= 1
    estimates = [(t.values["loss"], truth[t.text]) for t in inherited(raced) if t.raced]
    assert np.median([abs(a / b - 1) for a, b in estimates]) < 0.2


def test_no_front_holds_an_estimate() -> None:
    whole = Trial(0, "a", "a", {"loss": 0.5, "adapter_params": 9})
    raced = Trial(1, "b", "b", {"loss": 0.4, "adapter_params": 9}, extra={"raced": {"rows": 3, "of": 9, "by": 0}})
    assert latest([whole, raced]) == [whole]
    assert Trial.from_json(raced.to_json()).raced


def strata() -> Strata:
    space = grammar.load("lora_ranks").bind({"a": (8, 8), "b": (8, 8)})
    return Strata(space, [16, 64, 256])


def trial(number: int, loss: float, params: float, **extra: object) -> Trial:
    return Trial(
        number, str(number), str(number), {"loss": loss, "accuracy": 0.5, "adapter_params": params}, extra=extra
    )


def test_who_is_hopeless() -> None:
    rivals = Rivals(strata(), parse_objectives(["loss", "adapter_params"]), [2, 1])
    ask = rivals.against({"adapter_params": 48})
    assert ask({"loss": 9.0, "accuracy": 0.0}) is None, "there is nobody yet"
    rivals.add(trial(0, 1.0, 32))
    rivals.add(trial(1, 0.1, 16, raced={"rows": 1, "of": 2, "by": 0}))
    assert ask({"loss": 9.0, "accuracy": 0.0}) is None, "it may be the second of its stratum"
    rivals.add(trial(2, 1.2, 60))
    ask = rivals.against({"adapter_params": 48})
    assert ask({"loss": 1.3, "accuracy": 0.0}) == 0
    assert ask({"loss": 1.1, "accuracy": 0.0}) is None
    assert ask({"loss": 1.2, "accuracy": 0.0}) is None, "a tie is not lost"
    cheap = rivals.against({"adapter_params": 24})
    assert cheap({"loss": 9.0, "accuracy": 0.0}) is None, "nobody who costs no more is better"
    other = rivals.against({"adapter_params": 128})
    assert other({"loss": 9.0, "accuracy": 0.0}) is None, "the first of its stratum"


def test_two_measured_objectives_must_both_be_lost() -> None:
    rivals = Rivals(strata(), parse_objectives(["loss", "accuracy", "adapter_params"]), [1, 1])
    rivals.add(trial(0, 1.0, 32))
    ask = rivals.against({"adapter_params": 48})
    assert ask({"loss": 1.1, "accuracy": 0.6}) is None
    assert ask({"loss": 1.1, "accuracy": 0.5}) == 0


@pytest.mark.parametrize(
    ("trials", "finalists", "feasible", "most"),
    [(40, 2, True, [2, 2]), (40, 0, True, [1, 1]), (3, 5, True, [1, 1]), (40, 2, False, [4, 4]), (40, 1, True, [1, 1])],
)
def test_how_many_may_be_promoted(trials: int, finalists: int, feasible: bool, most: list[int]) -> None:
    assert candidates.most_promoted(strata(), trials, finalists, all_feasible=feasible) == most


def test_a_bound_on_a_measured_value_reads_every_row(tmp_path: Path) -> None:
    run = ar.run("lora_ranks", out=tmp_path / "1", where="loss <= 9", **{**PLAN, "trials": 16, "finalists": 0})
    assert len(inherited(run)) == 16
    assert not any(t.raced for t in run.trials)
