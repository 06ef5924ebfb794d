"""What a rank search begins with, and what it does not train again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import archrank as ar
from archrank.search.config import RunConfig
from archrank.search.job import prepare
from archrank.search.starting_points import starting_points
from archrank.supernet.shrinking import by_budget

RANKS = (0, 1, 2, 4)


def test_energy_buys_the_steps_worth_most_for_their_price() -> None:
    spectra = {"a": np.array([4.0, 3.0, 0.1, 0.1]), "b": np.array([2.0, 2.0, 2.0, 2.0])}
    prices = {"a": 10, "b": 10}
    assert by_budget(spectra, prices, 20, RANKS) == {"a": 2, "b": 0}
    assert by_budget(spectra, prices, 40, RANKS) == {"a": 2, "b": 2}
    assert by_budget(spectra, prices, 60, RANKS) == {"a": 2, "b": 4}
    assert by_budget(spectra, {"a": 10, "b": 1}, 14, RANKS) == {"a": 1, "b": 4}
    assert by_budget(spectra, prices, 0, (1, 2)) == {"a": 1, "b": 1}


@pytest.mark.parametrize("seed", range(4))
def test_energy_beats_random_allocations_of_its_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"m{i}" for i in range(12)]
    spectra = {n: np.sort(rng.gamma(1.0, size=4))[::-1] for n in names}
    prices = {n: int(rng.choice([3, 5, 8])) for n in names}

    def kept(ranks: dict[str, int]) -> float:
        return float(sum(np.square(spectra[n][:r]).sum() for n, r in ranks.items()))

    for budget in (40.0, 80.0, 160.0):
        found = by_budget(spectra, prices, budget, RANKS)
        assert sum(prices[n] * r for n, r in found.items()) <= budget
        drawn = (dict(zip(names, rng.choice(RANKS, size=12).tolist(), strict=True)) for _ in range(2000))
        assert kept(found) >= max(
            (kept(r) for r in drawn if sum(prices[n] * k for n, k in r.items()) <= budget), default=0
        )


def test_the_search_begins_with_uniform_ranks_and_the_adapter_s_own_allocations() -> None:
    job = prepare(RunConfig(train_steps=4))
    for adapter in job.net.adapters:
        adapter.B.data.normal_()
    found = starting_points(job)
    ranks = [job.ranks(d) for d in found]
    uniform = [set(r.values()) for r in ranks if len(r) == len(job.net.names) and len(set(r.values())) == 1]
    assert uniform == [{1}, {2}, {4}, {8}, {16}]
    assert len(found) > len(uniform)
    assert len({d.key for d in found}) == len(found)
    assert all(set(r.values()) == {k} for r, k in zip([ranks[-1]], [16], strict=True))


def test_a_tightened_space_keeps_what_it_holds() -> None:
    job = prepare(RunConfig(train_steps=4, where=("adapter_params <= 3000",)))
    for adapter in job.net.adapters:
        adapter.B.data.normal_()
    told = [set(job.ranks(d).values()) for d in starting_points(job)]
    assert {1} in told
    assert {4} not in told
    assert all(job.pricer.price(job.ranks(d))["adapter_params"] <= 3000 for d in starting_points(job))


@pytest.mark.parametrize("at_once", [True, False])
def test_the_whole_adapter_is_a_finalist_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    if not at_once:
        monkeypatch.setattr("archrank.search.job.Job.trains_together", False)
    run = ar.run("lora_ranks", out=tmp_path / "r", trials=24, train_steps=40, finalists=2, eval_rows=300)
    whole = [t for t in run.trials if t.values.get("adapter_params") == 21_504 and t.state == "done"]
    assert {t.stage for t in whole} >= {"inherited", "final"}
    assert {round(t.values["loss"], 5) for t in whole} == {round(whole[0].values["loss"], 5)}
    smaller = [t for t in run.trials if t.stage == "final" and t.values["adapter_params"] < 21_504]
    by_text = {t.text: t for t in run.trials if t.stage == "inherited"}
    assert any(t.values["loss"] != by_text[t.text].values["loss"] for t in smaller)
