"""Every figure names its stage and how many configurations each method saw: terminal, JSON, report, verdict."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest

import archrank as ar
from archrank.search.cli import main
from archrank.search.report import ReportData, render
from archrank.search.report.data import Seen
from archrank.search.results import Run

LINE = (
    "configurations seen: 8 inherited (random on one r_max run, 5 infeasible); "
    "4 re-ranked (short fine-tune, 2 seeds); 2 final (full fine-tune); 1 final (uniform ranks, full fine-tune)"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A bound on the loss makes some candidates infeasible: they were seen all the same. The other leaves rank 1 alone
    among the uniform ones, so that the one at the choice's cost is trained as a reference.
    """
    return ar.run(
        "lora_ranks",
        strategy="random",
        where=("loss <= 2.7", "adapter_params <= 2600"),
        out=tmp_path_factory.mktemp("runs") / "1",
        train_steps=20,
        trials=8,
        finalists=2,
        seed=4,
    )


def expected(run: Run) -> str:
    lost = sum(t.state == "infeasible" for t in run.trials if t.stage == "inherited")
    uniform = sum(t.stage == "final" and t.parent is None for t in run.trials)
    text = LINE.replace("1 final (uniform", f"{uniform} final (uniform")
    return text.replace(", 5 infeasible", f", {lost} infeasible" if lost else "")


def test_the_terminal_counts_by_stage_and_method(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("resume", "front"):
        assert main([command, str(run.path)]) == 0
        assert expected(run) in capsys.readouterr().out.splitlines()


def test_json_counts_by_stage_and_method(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(run.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["configurations"]
    assert [(s["stage"], s["method"], s["configurations"], s["seeds"]) for s in told[:3]] == [
        ("inherited", "random on one r_max run", 8, 1),
        ("reranked", "short fine-tune", 4, 2),
        ("final", "full fine-tune", 2, 1),
    ]
    assert told[3]["method"] == "uniform ranks, full fine-tune"
    assert sum(s["configurations"] for s in told) == len(run.trials)


def test_the_verdict_says_what_was_searched_and_what_is_uniform(run: Run) -> None:
    finals = [t for t in run.trials if t.stage == "final"]
    uniform = sum(t.parent is None for t in finals)
    trained = f"{len(finals)} fully trained of which {uniform} as uniform references"
    said = f"(configurations seen: 8 inherited, 4 re-ranked, {trained}; "
    assert said + "1 seed, 300 validation rows)" in run.verdict


def test_a_verdict_without_finalists_counts_too(tmp_path: Path) -> None:
    run = ar.run("lora_ranks", out=tmp_path / "r", trials=6, train_steps=4, finalists=0, race="off")
    assert "(inherited values; configurations seen: 6 inherited): best loss" in run.verdict


def test_a_traced_chain_is_a_method_of_its_own(tmp_path: Path) -> None:
    run = ar.run("lora_ranks", policy="maestro", out=tmp_path / "r", trials=4, train_steps=6, finalists=0)
    assert run.seen[0].method == "maestro's traced chain"
    assert run.seen[0].configurations == len(run.trials)


def test_every_figure_of_the_report_says_it(run: Run) -> None:
    page = unescape((run.path / "report.html").read_text())
    body = page.split("<body>")[1].split("<script")[0]
    for name in ("front", "hypervolume", "ranks", "stages"):
        section = body.split(f'<section id="{name}">')[1].split("</section>")[0]
        assert "Configurations seen: 8 inherited (random on one r_max run" in section, name
    table = body.split('<section id="seen">')[1].split("</section>")[0]
    cells = re.findall(r"<td>(.*?)</td>", table)
    assert cells[:4] == ["inherited", "random on one r_max run", "8", "1"]
    assert "uniform ranks, full fine-tune" in cells


def test_compared_runs_say_what_each_saw(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, page = tmp_path / "copy", tmp_path / "page.html"
    shutil.copytree(run.path, copy)
    assert main(["compare", str(run.path), str(copy), "--out", str(page)]) == 0
    told = capsys.readouterr().out
    for path in (run.path, copy):
        assert f"{path}: {expected(run)}" in told
    assert unescape(page.read_text()).count(expected(run)) == 2


def test_a_page_without_counts_and_a_method_to_escape() -> None:
    plain = ReportData("t", [("loss", "min", "")], [])
    assert "Configurations seen" not in render(plain).split("<script")[0]
    seen = [Seen("measured", "<b>mine</b>", 1200, seeds=3, failed=2, stopped_early=7)]
    trials = [{"id": 0, "text": "a", "values": {"loss": 1.0}, "stage": "measured", "state": "done"}]
    page = render(ReportData("t", [("loss", "min", "")], trials, seen=seen)).split("<script")[0]
    assert "1,200 measured (&lt;b&gt;mine&lt;/b&gt;, 3 seeds, 2 failed, 7 stopped early)" in page
    assert "<b>mine</b>" not in page
