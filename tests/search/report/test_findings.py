"""What was found out about a run, as the page draws it: interval, coordinates, importances, devices, lineages."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from archrank.search.report import ReportData, render
from archrank.search.report.findings import Band, Feature, Findings, Lineage, Step

Read = Callable[[str], dict[str, Any]]


def _visible(page: str) -> str:
    return page.split("<body>")[1].split("<script")[0]


def test_the_interval_lies_around_its_middle(realistic: ReportData, page: str, figures: Read) -> None:
    low, high, middle, curve = figures(page)["hypervolume"]["views"][0]["data"]
    assert [low["y"][-1], middle["y"][-1], high["y"][-1]] == list(realistic.findings.band.points[-1][1:])
    assert high["fill"] == "tonexty"
    assert curve["name"] == "values as counted"
    without = figures(render(replace(realistic, findings=Findings(Band(said="No interval: none.")))))["hypervolume"]
    assert len(without["views"][0]["data"]) == 1


def test_figures_are_told_in_words(page: str) -> None:
    said = re.findall(r'role="img" aria-label="(.*?)"', page)
    assert "90 % interval 9 to 10.5" in next(s for s in said if s.startswith("Hypervolume"))
    assert any(s.startswith("Parallel coordinates of 200 candidates") for s in said)
    assert any("For loss most matters" in s for s in said)
    assert "loss and adapter_params of 224 finished trials, 8 of them on the front." in said
    assert len(said) == len(set(said)) == 7
    assert all(s.endswith(".") for s in said)


def test_coordinates_hold_every_candidate_of_the_first_stage(realistic: ReportData, page: str, figures: Read) -> None:
    view = figures(page)["coordinates"]["views"][0]
    counts = [int(re.findall(r"\((\d+)\)", t["name"])[0]) for t in view["data"]]
    texts = {t["id"]: t["text"] for t in realistic.trials}
    front = {texts[i] for i in realistic.front}
    first = [t for t in realistic.trials if t["stage"] == "inherited" and t["state"] == "done"]
    assert sum(counts) == len(first)
    assert counts[-1] == sum(t["text"] in front for t in first), "the front is drawn last"
    for trace in view["data"]:
        assert all(0 <= y <= 1 for y in trace["y"] if y is not None)
        assert trace["x"][:5] == [0, 1, 2, 3, None]
    titles = view["layout"]["xaxis"]["ticktext"]
    assert titles[0] == "<b>loss ↓</b>"
    assert titles[1].endswith("logarithmic")
    assert len(titles) == 4


def test_coordinates_are_left_out_without_features(realistic: ReportData) -> None:
    assert 'id="coordinates"' not in render(replace(realistic, findings=Findings()))


def test_thousands_of_candidates_are_thinned(figures: Read) -> None:
    trials = [
        {"id": i, "text": str(i), "values": {"loss": i, "flops": 9000 - i}, "stage": "inherited"} for i in range(3000)
    ]
    feature = Feature("depth", {i: i % 5 for i in range(3000)})
    page = render(
        ReportData(
            "x", [("loss", "min", ""), ("flops", "min", "")], trials, front=[7], findings=Findings(features=[feature])
        )
    )
    names = [t["name"] for t in figures(page)["coordinates"]["views"][0]["data"]]
    assert names == ["others (480)", "best fifth of the rest by loss (120)", "on the front (1)"]


def test_importances_have_whiskers_and_refusals_reasons(page: str, figures: Read) -> None:
    (view,) = figures(page)["importance"]["views"]
    (bars,) = view["data"]
    assert bars["x"] == [0.4, 0.2, 0.0]
    assert bars["error_x"]["array"] == pytest.approx([0.1, 0.1, 0.1])
    assert view["layout"]["xaxis"]["title"]["text"] == "importance for loss · held-out R² 0.80 over 200 trials"
    assert "<option>loss by decision</option>" in page
    assert "loss by production: The trials do not differ in any of these." in _visible(page)


@pytest.fixture
def on_two_devices() -> ReportData:
    values = [(0.9, 1.0, 4.0), (0.5, 2.0, 3.0), (0.3, 5.0, 6.0)]
    trials = [
        {"id": i, "text": f"t{i}", "stage": "final", "values": {"loss": a, "latency_ms@x": b, "latency_ms@y": c}}
        for i, (a, b, c) in enumerate(values)
    ]
    objectives = [("loss", "min", ""), ("latency_ms@x", "min", "ms"), ("latency_ms@y", "min", "ms")]
    fronts = {"latency_ms@x": [0, 1, 2], "latency_ms@y": [1, 2]}
    return ReportData("two", objectives, trials, front=[0, 1, 2], findings=Findings(device_fronts=fronts))


def test_each_device_has_its_front(on_two_devices: ReportData, figures: Read) -> None:
    page = render(on_two_devices)
    view = figures(page)["devices"]["views"][0]
    assert [(t["name"], t["x"]) for t in view["data"]] == [("x (3)", [1.0, 2.0, 5.0]), ("y (2)", [3.0, 6.0])]
    assert len({t["marker"]["symbol"] for t in view["data"]}) == 2, "told apart without colour"
    assert view["layout"]["xaxis"]["title"]["text"] == "latency_ms [ms] · lower is better"
    assert "2 of the 3 candidates stand on every device's front." in _visible(page)
    assert _visible(page).count("✓") == 5


def test_one_device_has_no_section_of_its_own(page: str) -> None:
    assert 'id="devices"' not in page


def test_a_lineage_is_read_from_the_oldest_candidate_down(page: str) -> None:
    (text,) = re.findall(r'<ol class="lineage">(.*?)</ol>', page)
    order = ["the first candidate", "2 of 18 decisions differ", "layer.0 key: 4 → 8", "and 3 more", "trained further"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert text.count("the same candidate, trained further") == 2
    assert re.search(r"final</span> <span>loss \S+ → \S+ · adapter_params [\d,]+</span>", text)


def test_a_lineage_of_an_unknown_trial_is_refused(realistic: ReportData) -> None:
    with pytest.raises(ValueError, match=r"trials \[9999\] are on the front, chosen or drawn but not among"):
        replace(realistic, findings=Findings(lineages=[Lineage([Step(9999, "")], "")]))
