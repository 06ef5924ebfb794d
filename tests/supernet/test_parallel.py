"""A run's supernet on several processes is what one trains; test_distributed.py has the training itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.parallel import ReadOnlyCheckpoint, join_processes


def test_only_the_first_process_writes_and_all_read(tmp_path: Path) -> None:
    file, p = tmp_path / "c.safetensors", torch.nn.Parameter(torch.ones(3))
    rule = torch.optim.AdamW([p])
    ReadOnlyCheckpoint(file, "supernet", 1.0).save(4, [p], rule, 2.0)
    assert not file.exists()
    Checkpoint(file, "supernet", 1.0).save(4, [p], rule, 2.0)
    p.data.zero_()
    assert ReadOnlyCheckpoint(file, "supernet", 1.0).load([p], rule) == (4, 2.0)
    assert p.tolist() == [1, 1, 1]


def test_alone_where_nothing_launched_several() -> None:
    assert join_processes("cpu") == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed", "codyra"])
def test_a_run_on_two_processes(tmp_path: Path, policy: str) -> None:
    program = "import sys; from archrank.search.cli import main; sys.exit(main())"
    for processes in (1, 2):
        flags = ["--trials", "4", "--train-steps", "20", "--finalists", "0", "--processes", str(processes)]
        call = [sys.executable, "-c", program, "run", "lora_ranks", "--policy", policy, *flags]
        subprocess.run([*call, "--out", str(tmp_path / str(processes))], check=True, capture_output=True)
    one, two = (load_file(tmp_path / str(p) / "supernet.safetensors") for p in (1, 2))
    for name in {key.rsplit(".", 1)[0] for key in one}:
        before, after = (
            t[f"{name}.B"] @ t[f"{name}.A"] for t in (one, two)
        )  # a canonical form is unique but for signs
        torch.testing.assert_close(after, before, atol=2e-3, rtol=0)
