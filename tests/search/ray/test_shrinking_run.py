"""A space of ensembles that shrinks while it is searched, its finalists trained on workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import archrank as ar
from archrank.search.results import Run

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow]

FLAGS: dict[str, Any] = {
    "data": "digits", "objective": ("loss", "flops"), "evaluate": "train", "reduction": 1, "trials": 24,
    "train_steps": 4, "batch_size": 16, "finalists": 1, "seed": 1, "strategy": "random", "shrink_rounds": 1,
}  # fmt: skip


def told(run: Run) -> list[tuple[object, ...]]:
    return [(t.id, t.text, t.stage, t.state, dict(t.values)) for t in run.trials]


def test_the_search_shrinks_here_and_finds_the_same(
    nodes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ar.run("ensemble_cnn", out=tmp_path / "here", **FLAGS)
    assert "stays in this process" not in capsys.readouterr().err
    there = ar.run("ensemble_cnn", out=tmp_path / "there", ray=nodes.address, workers=2, **FLAGS)
    assert "a space of ensembles shrinks while it is searched" in capsys.readouterr().err
    gone = [o["name"] for o in there.event("shrink")["options"] if o["dropped"]]
    assert gone
    assert gone == [o["name"] for o in here.event("shrink")["options"] if o["dropped"]]
    assert told(there) == told(here)
    # one process and another may sum the rows of a batch in another order: they lie elsewhere in memory
    assert there.trials[-1].extra["test"] == pytest.approx(here.trials[-1].extra["test"], rel=1e-6)
    assert [t.stage for t in there.trials] == ["inherited"] * 24 + ["final"]
