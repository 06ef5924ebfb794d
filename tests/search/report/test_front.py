"""The front's figure: stages, pairs of objectives, directions, logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from archrank.search.report import ReportData, render
from archrank.search.report.figures import Scale


@pytest.fixture
def with_latency(realistic: ReportData) -> ReportData:
    """A third objective."""
    trials = [dict(t) for t in realistic.trials]
    for t in trials:
        if t["values"]:
            t["values"] = {**t["values"], "latency_ms": 1 + t["values"]["adapter_params"] ** 0.5 / 90}
    return replace(realistic, trials=trials, objectives=[*realistic.objectives, ("latency_ms", "min", "ms")])


def test_the_front_is_drawn_in_stages_with_chosen_points(page: str, figures: Callable[[str], dict[str, Any]]) -> None:
    view = figures(page)["front"]["views"][0]
    names = [t["name"] for t in view["data"]]
    assert names == ["front (8)", "inherited (200)", "re-ranked (16)", "final (8)"]
    assert len({t["marker"]["symbol"] for t in view["data"]}) == 4, "told apart without colour"
    assert view["layout"]["xaxis"]["type"] == "log"
    assert view["layout"]["xaxis"]["ticktext"][0] == "0", "a candidate without adapters has its place"
    assert view["data"][0]["line"]["shape"] == "hv"
    said = {a["text"] for a in view["layout"]["annotations"]}
    assert said == {"<b>knee</b>", "<b>best:loss</b>", "<b>best:adapter_params</b>"}
    hover = figures(page)["front"]["shared"]["hover:final"][0]
    assert "final" in hover
    assert "adapter_params: <b>128</b>" in hover
    assert "of 18 modules" in hover


def test_one_objective_is_drawn_over_evaluations(
    realistic: ReportData, figures: Callable[[str], dict[str, Any]]
) -> None:
    data = realistic
    page = render(replace(data, objectives=[("loss", "min", "")], front=data.front[-1:], chosen={}))
    (view,) = figures(page)["front"]["views"]
    assert "Values over evaluations" in page
    best = next(t for t in view["data"] if t["name"].startswith("best so far"))["y"]
    assert best == sorted(best, reverse=True)
    assert len(best) == 200


def test_three_objectives_have_a_view_for_each_pair(
    with_latency: ReportData, figures: Callable[[str], dict[str, Any]]
) -> None:
    page = render(with_latency)
    views = figures(page)["front"]["views"]
    assert len(views) == 3
    for label in (
        "loss against adapter_params",
        "loss against latency_ms",
        "adapter_params against latency_ms",
    ):
        assert f"<option>{label}</option>" in page
    assert views[1]["data"][0]["mode"] == "markers", "a pair of three objectives has no staircase"
    assert "latency_ms [ms]" in views[1]["layout"]["xaxis"]["title"]["text"]


def test_a_maximised_quality_is_above_and_better_is_said(figures: Callable[[str], dict[str, Any]]) -> None:
    trials = [
        {
            "id": i,
            "text": f"t{i}",
            "values": {"adapter_params": 10 * 4**i, "accuracy": 0.8 + i / 50},
            "stage": "final",
        }
        for i in range(5)
    ]
    objectives = [("adapter_params", "min", ""), ("accuracy", "max", "")]
    page = render(ReportData("s", objectives, trials, front=range(5), chosen={"knee": 2}))
    (view,) = figures(page)["front"]["views"]
    assert view["layout"]["yaxis"]["title"]["text"] == "accuracy · higher is better"
    assert view["layout"]["annotations"][0]["ay"] < 0, "the label stands where nothing can lie"
    assert view["layout"]["annotations"][0]["x"] == pytest.approx(math.log10(160))


def test_an_axis_is_logarithmic_only_over_a_wide_range() -> None:
    assert Scale.of(("n", "min", ""), [100, 900], 8).log
    assert not Scale.of(("n", "min", ""), [100, 700], 8).log
    assert not Scale.of(("n", "min", ""), [-1, 700], 8).log
    assert Scale.of(("n", "min", ""), [0, 10, 700], 8).floor == 5
    assert not Scale.of(("n", "min", ""), [], 8).log
