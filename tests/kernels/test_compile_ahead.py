"""Every Triton kernel, compiled for GPUs that are not there, stays within its budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}  # bytes that one block may ask for


@pytest.mark.timeout(600)
def test_kernels_compile_within_budget() -> None:
    """budget.json holds what each kernel needs; more registers or shared memory, any spill, a lost tensor-core
    instruction or a load of two bytes at a time is a regression. Regenerate: python compile_ahead.py 80 90.
    """
    pytest.importorskip("triton")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, HERE / "compile_ahead.py", "80", "90"], capture_output=True, text=True, env=env, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    needs = json.loads(run.stdout)
    budget = json.loads((HERE / "budget.json").read_text())
    assert {t: set(k) for t, k in needs.items()} == {t: set(k) for t, k in budget.items()}
    wrong = []
    for target, each in needs.items():
        for name, got in each.items():
            allowed = budget[target][name]
            if got["stack_bytes"] or got["narrow_loads"]:
                wrong.append(f"{target} {name} spills or loads two bytes at a time: {got}")
            if got["tensor_core"] == 0 or got["shared_bytes"] > min(allowed["shared_bytes"], SHARED_LIMIT[target]):
                wrong.append(f"{target} {name}: {got}, budget {allowed}")
            # ptxas moves a few registers from one release to the next
            if got["registers"] > min(255, allowed["registers"] + 16):
                wrong.append(f"{target} {name}: {got['registers']} registers, budget {allowed['registers']}")
    assert not wrong, wrong
