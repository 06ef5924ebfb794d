"""Gates to second order: the finite-difference gradient of the unrolled upper level against the exact one in fp64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archrank.supernet import elastic, policies
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.bilevel import unrolled_gradient
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.net import Elastic
from archrank.supernet.policies._gates import Gated
from archrank.supernet.policies.diffora import PENALTY
from archrank.supernet.training import TrainPlan, train

Make = Callable[[str], nn.Module]
RATE = 0.3


class Toy(nn.Module):
    """Two linear layers with a tanh between, fp64, answering as a transformers model does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)
        self.double()

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.b(torch.tanh(self.a(x))))


def toy(name: str) -> tuple[Elastic, Gated]:
    g = torch.Generator().manual_seed(1)
    net = Elastic(Toy(), {"a": LoRA(5, 6, 3), "b": LoRA(3, 5, 3)}).double()
    with torch.no_grad():
        for p in net.adapters.parameters():
            p.normal_(0, 0.5, generator=g)
    policy = policies.load(name)(net.shapes, 3, seed=1)
    assert isinstance(policy, Gated)
    start = policy.gates.detach().double()
    policy.gates = (start + 0.5 * torch.randn(start.shape, generator=g, dtype=torch.float64)).requires_grad_()
    policy.moments = torch.zeros(2, *start.shape, dtype=torch.float64)
    return net, policy


def batch(seed: int) -> tuple[Mapping[str, Tensor], np.ndarray]:  # type: ignore[type-arg]
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"x": x, "labels": (x[:, 0] > 0).long() + (x[:, 1] > 0)}, np.arange(8)


def loss(logits: Tensor, of: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(logits, of["labels"])


def exact(net: Elastic, policy: Gated, step: int, rate: float) -> Tensor:
    """Double backward through w' = w − ξ ∇_w L(w, α)."""
    names, store = zip(*net.adapters.named_parameters(prefix="adapters"), strict=True)

    def at(weights: tuple[Tensor, ...], seed: int) -> Tensor:
        given, index = batch(seed)
        c = policy.spectrum(step, index)
        swapped = dict(zip(names, weights, strict=True))
        out = torch.func.functional_call(net, swapped, (), {"spectrum": c, "x": given["x"]})
        return loss(out.logits, given)

    slopes = torch.autograd.grad(at(store, step), store, create_graph=True)
    moved = tuple(w - rate * g for w, g in zip(store, slopes, strict=True))
    upper = at(moved, step + 1000)
    if policy.switches_modules:
        size = (policy.gates.sigmoid() * policy.held().sum(1) * policy.prices).sum() / policy.full
        share = policy.budget(step) / policy.full
        upper = upper + PENALTY * (size - share).clamp(min=0)
    found: Tensor = torch.autograd.grad(upper, policy.gates)[0]
    return found


@pytest.mark.parametrize(("stretch", "accumulate", "within"), [(1e-4, 1, 1e-6), (1e-4, 3, 1e-6), (1e-2, 1, 3e-3)])
@pytest.mark.parametrize("name", ["autolora", "diffora"])
def test_a_step_gives_the_gates_the_exact_unrolled_gradient(
    name: str, stretch: float, accumulate: int, within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the way through the real training loop: steps 0 … 3 of 4, the last ones under diffora's falling budget.

    1e-2 is the stretch that is used; the smaller one shows that what is left of the difference is the quotient's.
    """
    net, policy = toy(f"{name}:second-order")
    wanted: list[Tensor] = []
    seen: list[Tensor] = []
    first: list[Tensor] = []
    gather = Gated.gate_gradients

    def gradients(self: Gated, value: Tensor, step: int, store: tuple[Tensor, ...] = ()) -> object:
        told = gather(self, value, step, store)
        assert self.gates.grad is not None
        first.append(self.gates.grad.clone())
        return told

    def batches(step: int) -> tuple[Mapping[str, Tensor], np.ndarray]:  # type: ignore[type-arg]
        wanted.append(exact(net, policy, step, RATE))
        return batch(step)

    def after_step(at: Elastic, step: int, lr: float) -> None:
        assert lr == RATE
        assert policy.gates.grad is not None
        seen.append(policy.gates.grad.clone())
        policy.adam(0.1)

    monkeypatch.setattr("archrank.supernet.bilevel.STRETCH", stretch)
    monkeypatch.setattr(Gated, "gate_gradients", gradients)
    monkeypatch.setattr(policy, "after_step", after_step)
    plan = TrainPlan(4, RATE, warmup=0.0, decay=False, accumulate=accumulate)
    train(net, batches, loss, plan, policy=policy, validation=lambda step: batch(step + 1000))
    for got, want, direct in zip(seen, wanted, first, strict=True):
        assert (got - want).abs().max() <= within * want.abs().max()
        assert (direct - want).norm() > 1e-3 * want.norm(), "the correction is there to be seen"


def test_the_quotients_error_falls_with_the_square_of_its_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    """L = Σ sin(α w) with slopes α cos(α w), F = Σ w³."""
    w = torch.tensor([0.3, -0.7], dtype=torch.float64)
    gates = torch.tensor([1.1, 0.4], dtype=torch.float64, requires_grad=True)
    moving = w.clone()

    def upper() -> tuple[Tensor, list[Tensor]]:
        return torch.zeros(2, dtype=torch.float64), [3 * moving.square()]

    def lower() -> Tensor:
        return torch.autograd.grad((gates * moving).sin().sum(), gates)[0]

    slopes = (gates * (gates * w).cos()).detach()
    v = 3 * (w - RATE * slopes).square()
    mixed = (gates * w).cos() - gates * w * (gates * w).sin()  # ∂² sin(α w) / ∂α ∂w
    want = (-RATE * mixed * v).detach()
    errors = []
    for stretch in (0.1, 0.01):
        monkeypatch.setattr("archrank.supernet.bilevel.STRETCH", stretch)
        got = unrolled_gradient([moving], [slopes], RATE, upper, lower)
        errors.append(float((got - want).abs().max()))
        assert torch.equal(moving, w), "the store is put back to the bit"
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)


def test_the_store_is_put_back_when_a_pass_fails() -> None:
    w = torch.ones(3)

    def upper() -> tuple[Tensor, list[Tensor]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unrolled_gradient([w], [torch.ones(3)], 0.5, upper, lambda: w)
    assert torch.equal(w, torch.ones(3))


@pytest.mark.parametrize("name", ["autolora", "diffora"])
def test_a_resumed_training_to_second_order_repeats_itself(tiny: Make, name: str, tmp_path: Path) -> None:
    """With dropout on: every pass of a step is a function of (seed, step)."""

    class Stop(Exception):
        pass

    def stop(done: int, value: float) -> None:
        if done == 10:
            raise Stop

    def batches(step: int) -> tuple[Mapping[str, Tensor], np.ndarray]:  # type: ignore[type-arg]
        ids = torch.randint(3, 60, (8, 7), generator=torch.Generator().manual_seed(step))
        return {"input_ids": ids, "labels": ids[:, 0] % 3}, step * 8 + np.arange(8)

    found = []
    for checkpoint, tick in ((None, None), (Checkpoint(tmp_path / "c", name, 1e9), stop), (None, None)):
        net = elastic(tiny("bert"), "lora_ranks", r_max=4)
        policy = policies.load(f"{name}:second-order")(net.shapes, 4, seed=1)
        kept = checkpoint or (Checkpoint(tmp_path / "c", name, 1e9) if found else None)
        try:
            train(
                net, batches, loss, TrainPlan(14, 1e-2, seed=1), policy=policy, checkpoint=kept, tick=tick,
                validation=lambda step: batches(step + 1000),
            )  # fmt: skip
        except Stop:
            continue
        found.append([*policy.state().values(), *(p.detach() for p in net.adapters.parameters())])
    assert len(found) == 2
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_passes_of_a_step_are_counted() -> None:
    names = ("mixed", "autolora", "autolora:second-order", "diffora:first-order", "diffora:second-order")
    assert [policies.load(n)({"a": (4, 4)}, 2).passes for n in names] == [1, 2, 4, 2, 4]
