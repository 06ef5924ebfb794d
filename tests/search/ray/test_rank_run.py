"""A rank run on workers: the trials of one process, whatever their number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import archrank as ar
from archrank.search.cli import main

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow]

FLAGS = [
    "run",
    "lora_ranks",
    "--trials",
    "12",
    "--train-steps",
    "10",
    "--finalists",
    "0",
    "--propose",
    "5",
    "--seed",
    "3",
]


def told(out: Path, *more: str) -> list[tuple[int, str, str, dict[str, float], object]]:
    assert main([*FLAGS, "--out", str(out), "--json", *more]) == 0
    return [(t.id, t.text, t.state, dict(t.values), t.extra["asked_after"]) for t in ar.open(out).trials]


def test_any_number_of_workers(nodes: Any, tmp_path: Path) -> None:
    here = told(tmp_path / "here")
    assert len(here) == 12
    for workers in ("1", "2", "4"):
        assert told(tmp_path / workers, "--ray", nodes.address, "--workers", workers) == here


def test_every_candidate_of_a_small_space(nodes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "few.lark").write_text(
        '//@ target_modules = ".*0.attention.q_proj"\nstart: site+  //@ each = target_modules\n'
        'site: MODULE ":" "lora" "(" RANK ")" -> lora\nRANK: "1" | "2"\n'
        "MODULE: /[A-Za-z_][\\w.]*/  //@ bound\n%ignore /\\s+/\n"
    )
    call = [FLAGS[0], str(tmp_path / "few.lark"), *FLAGS[2:]]
    assert main([*call, "--ray", nodes.address, "--workers", "1", "--out", str(tmp_path / "r")]) == 0
    assert "every candidate of the space is priced after 2 trials" in capsys.readouterr().err
