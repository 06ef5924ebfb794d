"""Each policy's own rule, without any training: what it draws, its proximal map, its scores, its budget."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import peft
import torch
from torch import nn

from archrank.supernet import policies
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.net import Elastic
from archrank.supernet.policies._gates import official_threshold, soft_threshold
from archrank.supernet.policies._schedule import falling_budget

MODULES = {"a.q": (32, 32), "a.k": (8, 32), "b.fc": (64, 4)}


def test_mixed_draws_each_rank_alike_beside_the_max_rank_rows() -> None:
    policy = policies.load("mixed")(MODULES, 8, seed=1)
    ranks = policy.spectrum(0, range(40_000)).sum(-1)[:, 0].numpy()
    share = np.bincount(ranks.astype(int), minlength=9) / len(ranks)
    for rank in (0, 1, 2, 4):
        assert abs(share[rank] - 7 / 8 / 5) < 0.01
    assert abs(share[8] - (1 / 8 + 7 / 8 / 5)) < 0.01
    full = (policy.spectrum(0, range(40_000)).sum(-1)[:, :2] == 8).all(-1).float().mean()
    assert abs(float(full) - (1 / 8 + 7 / 8 / 25)) < 0.01


def test_sandwich_has_its_shares_of_largest_and_smallest_rows() -> None:
    ranks = policies.load("sandwich")(MODULES, 8, seed=1).spectrum(0, range(20_000)).sum(-1)[:, :2]
    assert abs(float((ranks == 8).all(-1).float().mean()) - (1 / 4 + 1 / 2 / 16)) < 0.02
    assert abs(float((ranks == 1).all(-1).float().mean()) - (1 / 4 + 1 / 2 / 16)) < 0.02
    assert ranks.min() == 1


def test_dylora_draws_one_uniform_rank_a_step() -> None:
    policy = policies.load("dylora")(MODULES, 8, seed=1)
    drawn = [policy.spectrum(s, [0, 1]).sum(-1) for s in range(800)]
    assert all((r[:, 0] == r[0, 0]).all() and (r[:, 1] == r[0, 0]).all() for r in drawn)
    share = np.bincount([int(r[0, 0]) for r in drawn], minlength=9)[1:] / 800
    assert abs(share - 1 / 8).max() < 0.04


def test_nls_shares_a_rank_in_each_group() -> None:
    modules = {
        f"l.{i}.{n}": (32, 32)
        for i in range(2)
        for n in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
    }
    policy = policies.load("nls")(modules, 8, seed=1)
    assert policy.groups == [0, 0, 0, 1, 2, 2, 3, 3, 3, 4, 5, 5]  # type: ignore[attr-defined]
    ranks = torch.stack([policy.spectrum(s, [0]).sum(-1)[0] for s in range(60)])
    assert (ranks[:, 0] == ranks[:, 1]).all()
    assert (ranks[:, 0] != ranks[:, 3]).any()
    assert set(ranks.flatten().tolist()) == {1.0, 2.0, 4.0, 8.0}
    assert set(policy.median().values()) == {4}  # type: ignore[attr-defined]


def test_maestro_truncates_one_module_and_visits_all_pairs() -> None:
    policy = policies.load("maestro")({"a": (32, 32), "b": (32, 2)}, 4, seed=1)
    ranks = torch.stack([policy.spectrum(s, [0]).sum(-1)[0] for s in range(3000)])
    share = np.bincount(ranks[:, 0].int().numpy(), minlength=5)[1:4] / 3000
    assert abs(share - 1 / 6).max() < 0.03, "6 live pairs, 4 of them in a"
    assert abs(float((ranks[:, 1] == 1).float().mean()) - 1 / 6) < 0.03


def test_the_proximal_map_is_the_closed_form_and_the_official_one_has_its_dead_zone() -> None:
    g = torch.tensor([-0.35, -0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25], dtype=torch.float64)
    grid = torch.linspace(-1, 1, 400_001, dtype=torch.float64)
    best = torch.stack([grid[(0.5 * (grid - v) ** 2 + 0.1 * grid.abs()).argmin()] for v in g])
    torch.testing.assert_close(soft_threshold(g, 0.1), best, atol=1e-5, rtol=0)
    assert float(official_threshold(torch.tensor([0.15]), 0.1)) == 0, "a true soft threshold gives 0.05"
    kept = official_threshold(torch.tensor([0.1, 0.25, -0.25, 0.19]), 0.1)
    torch.testing.assert_close(kept, torch.tensor([0.1, 0.15, -0.15, 0.0]))


def test_adalora_scores_are_pefts() -> None:
    """PEFT's own allocator and this policy see the same weights and gradients for three steps."""
    from peft.tuners.adalora.layer import RankAllocator

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8))
    config = peft.AdaLoraConfig(target_modules=["0", "2"], init_r=4, target_r=2, total_step=10, tinit=1, tfinal=1)
    theirs = peft.get_peft_model(model, config)
    allocator = RankAllocator(theirs.base_model, theirs.peft_config["default"], "default")
    modules = {"0": (10, 12), "2": (8, 10)}
    ours = policies.load("adalora")(modules, 4)
    plain = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8))
    net = Elastic(plain, {n: LoRA(*s, 4) for n, s in modules.items()})
    for step in range(3):
        g = torch.Generator().manual_seed(step)
        for (name, adapter), place in zip(net.items(), range(2), strict=True):
            layer = theirs.base_model.model.get_submodule(name)
            sizes = {"E": (4, 1), "A": (4, adapter.in_features), "B": (adapter.out_features, 4)}
            values = {k: torch.randn(s, generator=g) for k, s in sizes.items()}
            slopes = {k: torch.randn(v.shape, generator=g) for k, v in values.items()}
            for key, p in (("E", layer.lora_E), ("A", layer.lora_A), ("B", layer.lora_B)):
                p["default"].data.copy_(values[key])
                p["default"].grad = slopes[key]
            assert isinstance(adapter, LoRA)
            adapter.A.data.copy_(values["A"])
            adapter.B.data.copy_(values["B"])
            adapter.A.grad, adapter.B.grad = slopes["A"], slopes["B"]
            ours.gates.data[place] = values["E"][:, 0]  # type: ignore[attr-defined]
            if place == 0:
                gradient = torch.zeros(2, 4)
            gradient[place] = slopes["E"][:, 0]
        allocator.update_ipt(theirs.base_model)
        scores = ours.score(net, gradient)  # type: ignore[attr-defined]
    for place, name in enumerate(modules):
        key = f"model.{name}.lora_%s.default"
        wanted = allocator._element_score(key % "E")[:, 0] + allocator._element_score(key % "A").mean(1)
        wanted = wanted + allocator._element_score(key % "B").mean(0)
        torch.testing.assert_close(scores[place], wanted)


def test_the_falling_budget_ends_at_its_least() -> None:
    found = [falling_budget(s, 100, 640.0, 10.0) for s in range(100)]
    assert found[49] == 640
    assert found[-1] == 10
    assert all(a >= b for a, b in pairwise(found))
