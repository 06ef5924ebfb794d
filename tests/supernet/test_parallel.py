"""Several processes train what one does: the same draws for each global sample, the same gradient."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from archrank.supernet import policies
from archrank.supernet.net import elastic
from archrank.supernet.parallel import Share, ShareError


def whole(step: int) -> tuple[dict[str, torch.Tensor], np.ndarray[Any, Any]]:
    generator = torch.Generator().manual_seed(step)
    batch = {"pixel_values": torch.randn(7, 1, 8, 8, generator=generator), "labels": torch.arange(7) % 5}
    return batch, 7 * step + np.arange(7)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_global_sample_keeps_its_ranks(size: int) -> None:
    modules = {"a": (8, 8), "b": (16, 8)}
    policy = policies.load("mixed")(modules, 8, seed=3)
    batch, index = whole(4)
    parts = [Share(rank, size, lambda x: x).batches(whole)(4) for rank in range(size)]
    assert np.concatenate([i for _, i in parts]).tolist() == index.tolist()
    assert torch.equal(torch.cat([b["pixel_values"] for b, _ in parts]), batch["pixel_values"])
    drawn = torch.cat([policy.spectrum(4, i) for _, i in parts])
    assert torch.equal(drawn, policy.spectrum(4, index))


def test_the_sum_of_the_shares_is_the_gradient(tiny: Callable[[str], Any]) -> None:
    net = elastic(tiny("vit"), "lora_ranks", r_max=4)
    for p in net.adapters.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(p.numel()))
    parameters = list(net.adapters.parameters())
    policy = policies.load("mixed")(net.shapes, 4, seed=0)

    def gradients(share: Share) -> list[torch.Tensor]:
        batch, index = share.batches(whole)(2)
        with share.summed(parameters, 7):
            logits = net(spectrum=policy.spectrum(2, index), pixel_values=batch["pixel_values"]).logits
            torch.nn.functional.cross_entropy(logits, batch["labels"]).backward()
        found = [p.grad for p in parameters]
        net.zero_grad()
        return [g for g in found if g is not None]

    one = gradients(Share(0, 1, lambda x: x))
    three = [gradients(Share(rank, 3, lambda x: x)) for rank in range(3)]
    for g, parts in zip(one, zip(*three, strict=True), strict=True):
        torch.testing.assert_close(sum(parts), g)


def test_a_batch_smaller_than_the_processes() -> None:
    with (
        pytest.raises(
            ShareError, match="a batch of 2 rows has none for some of 3 processes: take a larger --batch-size"
        ),
        Share(0, 3, lambda x: x).summed([], 2),
    ):
        pass


@pytest.mark.slow
def test_a_run_on_two_processes(tmp_path: Path) -> None:
    program = "import sys; from archrank.search.cli import main; sys.exit(main())"
    for processes in (1, 2):
        flags = ["--trials", "4", "--train-steps", "20", "--finalists", "0", "--processes", str(processes)]
        call = [sys.executable, "-c", program, "run", "lora_ranks", *flags, "--out", str(tmp_path / str(processes))]
        subprocess.run(call, check=True, capture_output=True)
    one, two = (load_file(tmp_path / str(p) / "supernet.safetensors") for p in (1, 2))
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, atol=1e-3, rtol=0)
