"""The table of a GPU run: from the saved data, naming what missed its criterion; the wheels that the run brings."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(shrink_us: float) -> dict[str, Any]:
    layer = {
        "gated_lora": {"us": 50.0},
        "floor_us": 40.0,
        "gemms_and_mask": {"us": 100.0},
        "loop_over_candidates": {"us": 200.0},
        "shrink": {"us": shrink_us},
        "shrink_floor_us": 10.0,
        "base": {"us": 40.0},
        "grouped_choice_linear": {"us": 50.0},
    }
    return {
        "machine": {"gpu": "Some GPU", "processor": "x"},
        "versions": {"torch": "2.13.0"},
        "date": "2026-01-02",
        "commit": "abc",
        "cases": {
            "right bf16": {"gated_lora y": 1.5, "all_within_8": True},
            "a layer": layer,
            "population": {"loop_ms": 10.0, "auto_ms": 2.0, "graph_ms": "not captured: why"},
        },
    }


def test_the_table_is_the_data() -> None:
    table = load("gpu_table")
    told = table.table(result(12.5))
    assert told.startswith("Some GPU, torch 2.13.0, 2026-01-02, abc\n")
    assert "| a layer | gated LoRA over its floor | 1.25 |  |" in told
    assert "| a layer | shrink: share of bandwidth | 0.80 |  |" in told
    assert "| population | loop over auto, a candidate | 5.00 |  |" in told
    assert "remove the kernel" not in told
    assert "| a layer | shrink: share of bandwidth | 0.50 | below 0.6: remove the kernel |" in table.table(result(20.0))
    assert "no measurement" in table.table({**result(1.0), "small": True})


def test_the_table_goes_between_its_markers() -> None:
    table = load("gpu_table")
    text = f"before\n{table.BEGIN}\nold\n{table.END}\nafter"
    once = table.put(text, "new")
    assert once == f"before\n{table.BEGIN}\n\nnew\n\n{table.END}\nafter"
    assert table.put(once, "new") == once
    assert table.BEGIN in (ROOT / "README.md").read_text()
    with pytest.raises(ValueError, match="no place for the table"):
        table.put("nothing here", "new")


def test_the_wheels_are_what_the_package_needs_without_torch() -> None:
    pack = load("pack_wheels")
    needed = pack.needed(pack.asked())
    direct = {re.split(r"[><=]", r)[0] for r in pack.asked()} - {"torch"}
    assert direct <= set(needed)
    assert {"tokenizers", "huggingface-hub"} <= set(needed), "what they need in turn"
    assert not any(name.startswith(("torch", "triton", "nvidia")) for name in needed)
