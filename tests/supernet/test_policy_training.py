"""Policies while they train: one store, exact extraction, lazy steps, gates, tracing, resumption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archrank.supernet import elastic, policies
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.lazy_adamw import RowLazyAdamW
from archrank.supernet.net import Elastic
from archrank.supernet.policies import Policy
from archrank.supernet.training import TrainPlan, train

Make = Callable[[str], nn.Module]
ALL = (*policies.available(), "dylora:frozen", "sora:official", "codyra:official")
ROWS = 8


def batches(step: int) -> tuple[Mapping[str, Tensor], np.ndarray]:  # type: ignore[type-arg]
    g = torch.Generator().manual_seed(step)
    ids = torch.randint(3, 60, (ROWS, 7), generator=g)
    return {"input_ids": ids, "labels": ids[:, 0] % 3}, step * ROWS + np.arange(ROWS)


def loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(logits, batch["labels"])


def without_dropout(model: nn.Module) -> nn.Module:
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    return model


def trained(tiny: Make, name: str, steps: int = 10) -> tuple[Elastic, Policy]:
    net = elastic(without_dropout(tiny("bert")), "lora_ranks", r_max=4)
    policy = policies.load(name)(net.shapes, 4, seed=1, ranks=[0, 1, 2, 4])
    train(net, batches, loss, TrainPlan(steps, 1e-2, seed=1), policy=policy, validation=lambda s: batches(s + 1000))
    return net, policy


@pytest.mark.parametrize("name", ALL)
def test_one_store_serves_every_policy_and_its_extraction_is_its_forward(tiny: Make, name: str) -> None:
    """After some training: the store has LoRA's parameters and no others, the support's forward is the extracted
    module's, and a budget is kept.
    """
    net, policy = trained(tiny, name)
    assert {k for k, _ in net.adapters.named_parameters()} == {f"{i}.{p}" for i in range(len(net.names)) for p in "AB"}
    inputs = {k: v for k, v in batches(77)[0].items() if k != "labels"}
    bare = net.base.eval()(**inputs).logits
    for budget in (None, 0.4 * policy.full, 0.05 * policy.full):
        support = policy.support(net, budget)
        factors = net.gathered(support)
        sub = Elastic(net.base, {n: LoRA.of(A, B) for n, (A, B) in factors.items()}).eval()
        with torch.no_grad():
            own = net.eval()(spectrum=support[None], **inputs).logits
            torch.testing.assert_close(sub(**inputs).logits, own, atol=2e-6, rtol=1e-5)
        home = policy.factors(net, budget)
        assert set(home) <= set(net.names)
        assert all(len(A) == B.shape[1] <= 4 for A, B in home.values())
        if budget is not None:
            assert sum(A.numel() + B.numel() for A, B in home.values()) <= budget
    assert (own - bare).abs().max() > 0 or not factors


def test_a_lazy_step_leaves_untouched_components_bit_identical(tiny: Make) -> None:
    """And is AdamW where all are touched."""
    plain, lazy = (elastic(tiny("bert"), "lora_ranks", r_max=4) for _ in range(2))
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    optimizers = (torch.optim.AdamW(plain.adapters.parameters(), **settings), RowLazyAdamW(lazy, **settings))  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(0)
    for _ in range(3):
        for p, q in zip(plain.adapters.parameters(), lazy.adapters.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=g)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for p, q in zip(plain.adapters.parameters(), lazy.adapters.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5)
    before = [p.detach().clone() for p in lazy.adapters.parameters()]
    mask = torch.zeros(2, len(lazy.names), 4)
    mask[1, :, 2] = 1
    for _ in range(4):
        optimizers[1].touch(mask)  # type: ignore[union-attr]
        optimizers[1].step()
    for old, (name, p) in zip(before, lazy.adapters.named_parameters(), strict=True):
        axis = 0 if name.endswith("A") else 1
        others = torch.tensor([0, 1, 3])
        assert torch.equal(old.index_select(axis, others), p.detach().index_select(axis, others))
        assert not torch.equal(old.select(axis, 2), p.detach().select(axis, 2))


def test_a_frozen_training_moves_one_component_a_step(tiny: Make) -> None:
    net = elastic(without_dropout(tiny("bert")), "lora_ranks", r_max=4)
    policy = policies.load("dylora:frozen")(net.shapes, 4, seed=1)
    seen = []

    def watch(done: int) -> bool:
        seen.append([p.detach().clone() for p in net.adapters.parameters()])
        return True

    train(net, batches, loss, TrainPlan(12, 1e-2, weight_decay=0.1), policy=policy, after=watch)
    for step in range(1, 12):
        b = policy.b(step) - 1  # type: ignore[attr-defined]
        for place, (old, new) in enumerate(zip(seen[step - 1], seen[step], strict=True)):
            moved = (old != new).any(1 - place % 2)
            assert set(moved.nonzero().flatten().tolist()) <= {b}


@pytest.mark.parametrize("name", ["sora", "diffora", "adalora", "maestro"])
def test_a_resumed_training_repeats_gates_and_store(tiny: Make, name: str, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    whole, policy = trained(tiny, name, 24)
    checkpoint = Checkpoint(tmp_path / "c", name, 1e9)

    def stop(done: int, value: float) -> None:
        if done == 10:
            raise Stop

    for tick in (stop, None):
        net = elastic(without_dropout(tiny("bert")), "lora_ranks", r_max=4)
        again = policies.load(name)(net.shapes, 4, seed=1, ranks=[0, 1, 2, 4])
        plan = TrainPlan(24, 1e-2, seed=1)
        try:
            train(
                net, batches, loss, plan, policy=again, validation=lambda s: batches(s + 1000),
                checkpoint=checkpoint, tick=tick,
            )  # fmt: skip
        except Stop:
            continue
    assert all(torch.equal(v, again.state()[k]) for k, v in policy.state().items())
    for p, q in zip(whole.adapters.parameters(), net.adapters.parameters(), strict=True):
        assert torch.equal(p, q)


def test_gates_learn_on_validation_batches(tiny: Make) -> None:
    """They part from each other, and the budget penalty pulls them down."""
    _, policy = trained(tiny, "diffora", 40)
    assert policy.bilevel
    gates = policy.weights().detach()[:, 0]  # type: ignore[attr-defined]
    assert gates.std() > 0
    assert float((gates * policy.prices).sum() / policy.prices.sum()) < 0.75, "the budget penalty pulls them down"


def test_sora_traces_a_whole_curve_in_one_chain(tiny: Make) -> None:
    net = elastic(without_dropout(tiny("bert")), "lora_ranks", r_max=4)
    policy = policies.load("sora")(net.shapes, 4, seed=1)
    live = []

    def watch(done: int) -> bool:
        live.append(int((policy.support(net) != 0).sum()))
        return True

    train(net, batches, loss, TrainPlan(80, 1e-2, decay=False), policy=policy, after=watch)
    assert live[39] == 48
    assert live[-1] < 0.3 * 48
    assert len(set(live)) >= 6


def test_modules_left_out_share_the_best_component(tiny: Make) -> None:
    net, policy = trained(tiny, "lora_drop")
    policy.observe(net, [batches(5)[0]])  # type: ignore[attr-defined]
    home = policy.factors(net, 0.5 * policy.full)
    shared = [n for n, (A, _) in home.items() if len(A) == 1]
    assert 0 < len(shared) < len(home) == len(net.names)
    by_shape: dict[tuple[int, int], list[str]] = {}
    for n in shared:
        by_shape.setdefault(net.shapes[n], []).append(n)
    for names in by_shape.values():
        products = [net.gathered(policy.held())[n] for n in names]
        mean = torch.stack([B @ A for A, B in products]).mean(0)
        U, S, V = torch.linalg.svd(mean)
        best = S[0] * U[:, :1] @ V[:1]
        for n in names:
            torch.testing.assert_close(home[n][1] @ home[n][0], best, atol=1e-6, rtol=1e-4)
