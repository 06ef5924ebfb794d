"""The same candidates at several stages: how they are matched, and how well one stage predicts the next."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from archrank.predictors.metrics import kendall
from archrank.search.report import ReportData, render
from archrank.search.report.calibration import agreement, calibration
from archrank.search.report.data import chains, read_rows


def test_chains_follow_parents_and_else_keys() -> None:
    def row(number: int, stage: str, parent: int | None = None, key: str = "", state: str = "done") -> dict[str, Any]:
        return {
            "id": number,
            "stage": stage,
            "parent": parent,
            "key": key,
            "state": state,
            "values": {"loss": 1},
        }

    rows = read_rows(
        [
            row(1, "inherited", key="a"),
            row(2, "inherited", key="b"),
            row(3, "reranked", 1),
            row(4, "final", 3),
            row(5, "reranked", key="b"),
            row(6, "reranked", 2, state="failed"),
            row(7, "inherited", 7),
        ]
    )
    found = [{s: r.id for s, r in c.items()} for c in chains(rows)]
    assert found == [{"final": 4, "reranked": 3, "inherited": 1}, {"reranked": 5, "inherited": 2}]


def test_an_agreement_has_its_interval() -> None:
    rng = np.random.default_rng(0)
    early = rng.normal(size=40)
    late = early + rng.normal(size=40)
    found = re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", agreement(early, late))
    assert found
    tau, low, high = map(float, found.groups())
    assert tau == pytest.approx(kendall(early, late), abs=0.005)
    assert low < tau < high
    assert 0.1 < high - low < 0.5, "an interval of 40 pairs"


def test_no_interval_where_it_would_mislead() -> None:
    assert agreement([1, 2, 3], [1, 3, 2]) == "0.33", "too few"
    assert agreement(range(20), range(20)) == "1.00", "every resample agrees as well"
    assert agreement([1, 1, 1], [1, 2, 3]) == "–"


def test_the_table_has_a_row_for_each_pair_of_stages(realistic: ReportData) -> None:
    table = calibration(realistic, chains(read_rows(realistic.trials)))
    rows = [re.findall(r"<td.*?>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    assert [r[:3] for r in rows] == [
        ["loss", "inherited → re-ranked", "16"],
        ["loss", "re-ranked → final", "8"],
        ["loss", "inherited → final", "8"],
    ]
    by_id = {t["id"]: t for t in realistic.trials}
    pairs = [(by_id[t["parent"]], t) for t in realistic.trials if t["stage"] == "reranked"]
    change = [b["values"]["loss"] - a["values"]["loss"] for a, b in pairs]
    assert float(rows[0][4]) == pytest.approx(np.mean(change), rel=0.01)
    assert float(rows[0][5]) == pytest.approx(np.std(change, ddof=1), rel=0.01)


def test_values_that_no_stage_changes_need_no_calibration() -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "text": "a", "values": {"flops": 3}, "stage": "inherited", "state": "done"},
        {"id": 2, "text": "a", "values": {"flops": 3}, "stage": "final", "state": "done", "parent": 1},
    ]
    assert "Kendall" not in render(ReportData("x", [("flops", "min", "")], rows)).split("<script")[0]
