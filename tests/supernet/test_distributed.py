"""Two processes train what one trains: the ranks of a step do not depend on how many there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

PROGRAM = """
import sys, numpy as np, torch, transformers as t
from safetensors.torch import save_file
from archrank.supernet import elastic, policies
from archrank.supernet.training import TrainPlan, train

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
if world > 1:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
torch.manual_seed(0)
config = t.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=5, hidden_size=16, num_hidden_layers=2,
                     num_attention_heads=2, intermediate_size=32, initializer_range=0.15)
base = t.ViTForImageClassification(config).eval()

def batches(step):
    g = torch.Generator().manual_seed(step)
    rows = {"pixel_values": torch.randn(7, 1, 8, 8, generator=g), "labels": torch.randint(0, 5, (7,), generator=g)}
    return rows, step * 7 + np.arange(7)

loss = lambda logits, batch: torch.nn.functional.cross_entropy(logits, batch["labels"])
kept = {}
for name in ("mixed", "sora", "autolora:second-order"):
    net = elastic(base, "lora_ranks", r_max=4)
    rule = policies.load(name)(net.shapes, 4, seed=3, ranks=[0, 1, 2, 4])
    train(net, batches, loss, TrainPlan(12, 1e-3, seed=2), policy=rule, validation=lambda s: batches(s + 1000))
    kept |= {f"{name} {k}": v for k, v in net.adapters.state_dict().items()}
    kept[f"{name} gates"] = rule.spectrum(5, range(40, 47)).detach()
if rank == 0:
    save_file({k: v.contiguous() for k, v in kept.items()}, f"{folder}/{world}.safetensors")
if world > 1:  # a process that ends with gloo's threads running may abort
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def test_two_gloo_processes_equal_one(tmp_path: Path) -> None:
    for world in (1, 2):
        running = [
            subprocess.Popen([sys.executable, "-c", PROGRAM, str(rank), str(world), str(tmp_path)])
            for rank in range(world)
        ]
        assert [p.wait(timeout=120) for p in running] == [0] * world
    one, two = (load_file(tmp_path / f"{world}.safetensors") for world in (1, 2))
    assert torch.equal(one["mixed gates"], two["mixed gates"]), "the ranks that were drawn"
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=2e-5, rtol=1e-4)
    assert any(value.abs().max() > 1e-3 for key, value in one.items() if key.endswith("B"))
