"""The report page: complete, offline, escaped; empty and wrong data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from archrank.search.report import ReportData, render


class _Page(HTMLParser):
    """The elements of a page and the addresses they load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(v) for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_one_file_that_loads_nothing(page: str) -> None:
    parsed = _Page(page)
    assert parsed.loads == []
    assert not {"link", "img", "iframe", "object", "embed"} & set(parsed.tags)
    assert parsed.tags.count("script") == 3, "the figures, plotly.js once, the page's own script"
    assert page.count("plotly.js v") == 1
    assert not re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["'](https?:[^"']+)""", page)
    assert "default-src 'none'" in page, "the browser itself refuses every request"
    assert "@import" not in page.split("<script")[0]
    assert len(page) < 6_000_000


def test_every_section_is_there(page: str) -> None:
    assert "<h1>lora_ranks</h1>" in page
    names = ["front", "hypervolume", "ranks", "stages", "coordinates", "importance", "table", "lineage"]
    for name in (*names, "failed", "phases", "reproduce"):
        assert f'<section id="{name}">' in page, name
    body = page.split("<body>")[1].split("<script")[0]
    for words in (
        "200 inherited, 16 re-ranked, 8 final",
        "latency_ms</b> = 0.1231 ms",
        "the same for every rank",
        "never selected on",
        "test accuracy",
        "best:loss",
        "loss is nan after step 12 of the head",
        "search run spaces/lora_ranks.lark --hw a100",
        "Reference point: loss 2.4, adapter_params 18,432",
        "Kendall τ",
        "The band is made up.",
        "by production: The trials do not differ in any of these.",
        "2 min 04 s",
    ):
        assert words in body, words


def test_user_text_is_escaped_everywhere(evil: ReportData, figures: Callable[[str], dict[str, Any]]) -> None:
    page = render(evil)
    parsed = _Page(page)
    assert parsed.tags.count("script") == 3
    assert "img" not in parsed.tags
    assert "".join(parsed.text).count("document.title='owned'") > 10, "shown, as text"
    assert not re.search(r"<(?!/?(b|i|br)>)", json.dumps(figures(page))), "plotly reads tags in its texts too"


@pytest.mark.parametrize("state", ["failed", "infeasible"])
def test_a_run_in_which_nothing_was_finished(state: str) -> None:
    trials = [{"id": i, "text": "x", "values": {}, "stage": "inherited", "state": state} for i in range(3)]
    page = render(ReportData("empty", [("loss", "min", ""), ("adapter_params", "min", "")], trials))
    assert "No trial is on the front" in page
    assert "no reason was recorded" in page
    assert f"3 {state}" in page


def test_no_trials_and_missing_values(figures: Callable[[str], dict[str, Any]]) -> None:
    assert "<h1>none</h1>" in render(ReportData("none", [("loss", "min", "")], []))
    trials: list[dict[str, Any]] = [
        {"id": 1, "text": "a", "values": {"loss": None, "flops": 3}, "stage": "inherited", "state": "done"},
        {"id": 2, "text": "b", "values": {"loss": float("inf"), "flops": 4}, "stage": "", "seconds": None},
    ]
    page = render(ReportData("gaps", [("loss", "min", ""), ("flops", "min", "")], trials, front=[1]))
    assert figures(page)["front"]["views"][0]["data"][1]["y"] == [None]


def test_wrong_data_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="direction 'minimise' is not one of 'min', 'max'"):
        ReportData("x", [("loss", "minimise", "")], [])
    with pytest.raises(ValueError, match=r"trials \[7\] are on the front, chosen or drawn but not among the 1 trials"):
        ReportData("x", [("loss", "min", "")], [{"id": 1}], front=[7])
    with pytest.raises(ValueError, match="at least one objective"):
        ReportData("x", [], [])
