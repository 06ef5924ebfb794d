"""The examples do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import archrank as ar
from archrank.search.cli import main

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_the_example_space_is_clean_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(EXAMPLES / "my_space.lark"), "--json"]) == 0
    assert capsys.readouterr().out == '{"lints": [], "size": 3814697265625}\n'
    run = ar.run(EXAMPLES / "my_space.lark", out=tmp_path / "r", trials=6, train_steps=6, finalists=1)
    assert all(rank in (1, 2, 4, 8) for t in run.trials for rank in run.ranks(t).values())
    script = runpy.run_path(str(EXAMPLES / "extract_in_python.py"))
    script["main"](str(tmp_path / "r"), str(tmp_path / "adapter"))
    assert "parameters in" in capsys.readouterr().out
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
